from __future__ import annotations

import time

import pytest

from elit_edge.device.energy import CounterMeter, energy_meter
from elit_edge.device.rails import find_rails, whole_board
from elit_edge.device.tree import Tree

RAPL = "sys/class/powercap/intel-rapl:0"
HWMON = "sys/class/hwmon/hwmon0"


def package(energy, zone=RAPL, name="package-0"):
    return {f"{zone}/name": name, f"{zone}/energy_uj": str(energy), f"{zone}/max_energy_range_uj": "262143328850"}


def test_rapl_counts_from_the_start_and_over_the_wrap(write):
    root = write(package(262143000000))
    meter = energy_meter(root)
    assert meter.name == "RAPL package-0"
    assert meter.joules() == 0
    write(package(262143300000))
    assert meter.joules() == pytest.approx(0.3)
    write(package(1_000_000))
    assert meter.joules() == pytest.approx(0.3 + 0.02885 + 1.0)
    meter.close()
    write(package(9_000_000))
    assert meter.joules() == pytest.approx(1.32885)


def test_two_packages_are_summed_and_their_parts_left_out(write):
    second = RAPL.replace(":0", ":1")
    part = {f"{RAPL}:0/name": "core", f"{RAPL}:0/energy_uj": "0", f"{RAPL}:0/max_energy_range_uj": "1000"}
    root = write({**package(0), **package(0, second, "package-1"), **part})
    meter = energy_meter(root)
    write({**package(1_000_000), **package(2_000_000, second, "package-1"), f"{RAPL}:0/energy_uj": "500"})
    assert meter.joules() == pytest.approx(3.0)


def test_a_counter_that_cannot_be_read_for_a_while_loses_nothing(write):
    root = write(package(0))
    meter = energy_meter(root)
    write({f"{RAPL}/energy_uj": "nonsense"})
    assert meter.joules() == 0
    write(package(5_000_000))
    assert meter.joules() == pytest.approx(5.0)


def test_without_a_readable_sensor_there_is_no_meter(planted, write):
    assert energy_meter(planted("laptop-on-battery")) is None
    assert energy_meter(planted("raspberry-pi-5")) is None


def test_a_counter_without_a_range_that_falls_was_reset():
    class Gpu:  # stands for NVML's counter: there is no NVIDIA GPU here
        name, range_uj, values = "GPU", None, iter([100, 300, 50, 60])

        def read_uj(self):
            return next(self.values)

    meter = CounterMeter([Gpu()])
    assert meter.joules() == pytest.approx(200e-6)
    assert meter.joules() == pytest.approx(200e-6)
    assert meter.joules() == pytest.approx(210e-6)


def test_rails_are_integrated_over_time(planted):
    started = time.perf_counter()
    meter = energy_meter(planted("jetson-orin-nano"))
    assert meter.name == "INA3221 VDD_IN"
    time.sleep(0.3)
    used = meter.joules()
    elapsed = time.perf_counter() - started
    meter.close()
    meter.close()
    # The tree states 5016 mV and 1208 mA.
    assert 0.3 * 6.0593 <= used <= elapsed * 6.0594
    assert meter.joules() >= used


def test_a_board_without_a_common_rail_is_the_sum_of_its_rails(write):
    files = {f"{HWMON}/name": "ina3221"}
    for channel, name in enumerate(("VDD_GPU_SOC", "VDD_CPU_CV", "NC"), 1):
        files[f"{HWMON}/in{channel}_label"] = name
        files[f"{HWMON}/in{channel}_input"] = "5000"
        files[f"{HWMON}/curr{channel}_input"] = "1000"
    rails = whole_board(find_rails(Tree(write(files))))
    assert [rail.name for rail in rails] == ["VDD_GPU_SOC", "VDD_CPU_CV"]


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        (
            "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3",
            {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "2000"},
        ),
        ("sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0", {"rail_name_0": "POM_5V_IN", "in_power0_input": "10000"}),
    ],
)
def test_rails_of_older_systems(write, folder, names):
    root = write({f"{folder}/{name}": value for name, value in names.items()})
    tree = Tree(root)
    (rail,) = find_rails(tree)
    assert rail.power_w(tree) == 10.0
