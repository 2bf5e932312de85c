from __future__ import annotations

import time

import pytest

from elit_edge.device.pressure import pressure

ZONE = "sys/class/thermal/thermal_zone0"
POLICY = "sys/devices/system/cpu/cpufreq/policy0"
BATTERY = "sys/class/power_supply/BAT0"


@pytest.mark.parametrize(
    ("celsius", "level"), [(89.9, "none"), (90.0, "warm"), (94.9, "warm"), (95.0, "hot"), (101.0, "hot")]
)
@pytest.mark.parametrize("kind", ["passive", "hot"])
def test_temperatures(write, kind, celsius, level):
    root = write(
        {
            f"{ZONE}/type": "cpu-thermal",
            f"{ZONE}/temp": str(int(celsius * 1000)),
            f"{ZONE}/trip_point_0_type": "critical",
            f"{ZONE}/trip_point_0_temp": "105000",
            f"{ZONE}/trip_point_1_type": kind,
            f"{ZONE}/trip_point_1_temp": "95000",
        }
    )
    found = pressure(root)
    assert found.level == level
    assert bool(found.reasons) is (level != "none")


def test_a_temperature_is_read_anew_each_time(write):
    trip = {f"{ZONE}/trip_point_0_type": "passive", f"{ZONE}/trip_point_0_temp": "80000"}
    root = write({f"{ZONE}/type": "soc", f"{ZONE}/temp": "60000", **trip})
    assert pressure(root).level == "none"
    write({f"{ZONE}/temp": "81000"})
    assert pressure(root).level == "hot"


def test_a_placeholder_is_no_trip_point(write):
    trip = {f"{ZONE}/trip_point_0_type": "passive", f"{ZONE}/trip_point_0_temp": "0"}
    assert pressure(write({f"{ZONE}/type": "soc", f"{ZONE}/temp": "60000", **trip})).level == "none"


@pytest.mark.parametrize(
    ("limit", "level"), [(2400000, "none"), (1920000, "none"), (1900000, "warm"), (1000000, "hot")]
)
def test_capped_clocks(write, limit, level):
    root = write({f"{POLICY}/scaling_max_freq": str(limit), f"{POLICY}/cpuinfo_max_freq": "2400000"})
    assert pressure(root).level == level


def test_a_power_mode_caps_clocks_on_purpose(write):
    files = {f"{POLICY}/scaling_max_freq": "1000000", f"{POLICY}/cpuinfo_max_freq": "2400000"}
    assert pressure(write({**files, "var/lib/nvpmodel/status": "pmode:0001"})).level == "none"


@pytest.mark.parametrize(
    ("charge", "status", "level"),
    [
        (20, "Discharging", "none"),
        (19, "Discharging", "warm"),
        (8, "Discharging", "warm"),
        (7, "Discharging", "hot"),
        (7, "Charging", "none"),
    ],
)
def test_charge(write, charge, status, level):
    root = write({f"{BATTERY}/type": "Battery", f"{BATTERY}/capacity": str(charge), f"{BATTERY}/status": status})
    assert pressure(root).level == level


def test_a_full_second_battery_relieves_an_empty_one(write):
    second = BATTERY.replace("BAT0", "BAT1")
    root = write(
        {
            f"{BATTERY}/type": "Battery",
            f"{BATTERY}/capacity": "3",
            f"{BATTERY}/status": "Discharging",
            f"{second}/type": "Battery",
            f"{second}/capacity": "90",
            f"{second}/status": "Not charging",
        }
    )
    assert pressure(root).level == "none"


@pytest.mark.parametrize("name", ["jetson-orin-nano", "laptop-on-battery", "android-termux"])
def test_it_is_cheap(planted, name):
    root = planted(name)
    pressure(root)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        pressure(root)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.002


def test_pressure_of_the_device_lowers_the_share(monkeypatch):
    from elit_edge.device import pressure

    hot = pressure.Pressure(level="hot", reasons=("cpu at 96 of 95 degrees",))
    monkeypatch.setattr(pressure, "pressure", lambda: hot)
    assert pressure.sustainable_share() == (0.4, "cpu at 96 of 95 degrees")
    monkeypatch.setattr(pressure, "pressure", lambda: pressure.Pressure(level="none", reasons=()))
    assert pressure.sustainable_share() == (1.0, "")
