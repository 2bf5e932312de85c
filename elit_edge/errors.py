"""Every error that a user can act on. A message says what was asked, what was found and what to do."""


class ElitEdgeError(Exception):
    """The root of all errors raised on purpose; anything else is a defect of elit-edge."""


class RequestError(ElitEdgeError):
    """A value given by the user cannot be honoured: an unknown label, steps below one, an unknown solver."""


class BudgetError(RequestError):
    """A number of latents that the model does not have, or a fraction that keeps none."""


class ConfigError(ElitEdgeError):
    """A model config that is malformed, incomplete or in contradiction with itself."""


class CheckpointError(ElitEdgeError):
    """A checkpoint that is missing, damaged, foreign, unsafe, or at odds with its config."""


class ExportError(ElitEdgeError):
    """A graph that could not be written: the trace, the conversion or the place for it failed."""


class ParityError(ElitEdgeError):
    """A graph whose numbers are not the model's."""


class BundleError(ElitEdgeError):
    """A bundle that is missing, damaged, of another schema version, or that points outside itself."""


class PackageError(BundleError):
    """A Core ML package that is missing, damaged, or holds what elit-edge cannot evaluate."""


class RuntimeUnavailable(ElitEdgeError):
    """A runtime that was asked for and is not ready here; the message holds the reason and the remedy."""


class PictureError(ElitEdgeError):
    """A sample that is no picture: not finite, or the same everywhere."""


class Cancelled(ElitEdgeError):
    """A run that its user ended between two steps."""


class PlanError(RequestError):
    """A bound that no plan keeps here; `nearest` is the plan that comes closest, None where nothing can be said."""

    def __init__(self, message: str, nearest: object | None) -> None:
        super().__init__(message)
        self.nearest = nearest


class DeadlineError(PlanError):
    """A deadline that even the fastest plan would miss."""


class FitError(ElitEdgeError):
    """Work whose memory or disk this machine does not have; refused before it begins."""


class CalibrationError(ElitEdgeError):
    """A calibration that cannot be done, or whose input is no calibration set."""
