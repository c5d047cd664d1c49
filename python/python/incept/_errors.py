"""The exceptions of the package. Each is also the built-in exception that fits."""


class InceptError(Exception):
    """Base of all exceptions of this package."""


class ConfigError(InceptError, ValueError):
    """An option is invalid, unknown or contradicts another one."""


class DataError(InceptError, ValueError):
    """A data set or an image cannot be read, or has too few images."""


class CheckpointError(InceptError, ValueError):
    """Weights cannot be read, do not fit the network, or are not finite."""


class FileError(InceptError, OSError):
    """A file cannot be read or written, or another process is writing it."""


class MissingFileError(FileError, FileNotFoundError):
    """A file or folder does not exist."""


class DeviceError(InceptError, RuntimeError):
    """A device cannot be opened, ran out of memory, or failed."""


class DivergedError(InceptError, ArithmeticError):
    """Training diverged: loss or weights became NaN or infinite."""
