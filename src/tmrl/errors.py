"""Every error that is raised at run time, in one tree.

    TmrlError
    ├── SchemaError           a sample, or a space, that no fixed-size row can hold      (ValueError)
    ├── BadSampleError        what arrived does not fit the memory's schema              (ValueError)
    ├── HistoryError          an observation that is not what its declared history says  (ValueError)
    ├── EmptyMemoryError      a draw from a memory that holds too few transitions        (ValueError)
    ├── EvictedRowError       an id of a row that the ring no longer holds               (LookupError)
    ├── IntegrityError        bytes that changed between the worker and the batch        (AssertionError)
    ├── ContractError         a memory that breaks the documented interface              (AssertionError)
    ├── DatasetError          a dataset that cannot be read                              (ValueError)
    │   └── UnsafePickleError a pickle that names anything but arrays and containers
    ├── StorageError          a folder that a memory cannot live in                      (OSError)
    ├── ParcelError           bytes from a peer that are no parcel of samples            (ValueError)
    ├── PolicyError           a policy file that cannot be read, or not safely           (ValueError)
    ├── ProtocolError         a peer said what makes no sense                            (ValueError)
    ├── LineLostError         a connection that is gone; what was not acknowledged stays (ConnectionError)
    ├── RefusedError          a peer hung up for good, and said why                      (ConnectionError)
    ├── CredentialError       credentials of the line that are missing, damaged, expired (ValueError)
    └── StalledError          a wait that outlasted its limit                            (TimeoutError)

A wrong argument of a function or a constructor is a plain `ValueError` or `TypeError`.
"""

__all__ = [
    "BadSampleError",
    "ContractError",
    "CredentialError",
    "DatasetError",
    "EmptyMemoryError",
    "EvictedRowError",
    "HistoryError",
    "IntegrityError",
    "ParcelError",
    "PolicyError",
    "ProtocolError",
    "RefusedError",
    "SchemaError",
    "StalledError",
    "StorageError",
    "TmrlError",
    "UnsafePickleError",
]


class TmrlError(Exception):
    """The root of this package's run-time errors."""


class SchemaError(TmrlError, ValueError):
    """A sample or a space holds something that no fixed-size row can hold; the message says the remedy."""


class BadSampleError(TmrlError, ValueError):
    """What arrived was refused as a whole, and the memory is as it was.

    The message names the worker, the field, what was expected and what was found.
    """


class HistoryError(TmrlError, ValueError):
    """An observation is not what its `History` declares; the memory would rebuild another one."""


class EmptyMemoryError(TmrlError, ValueError):
    """A draw from a memory that holds no transition that can be drawn."""


class EvictedRowError(TmrlError, LookupError):
    """A row was asked for by an id that the ring no longer holds, or does not hold yet."""


class IntegrityError(TmrlError, AssertionError):
    """CRC debugging found that a transition differs from the one its worker saw.

    It is an `AssertionError` too, because code written for the documented interface may catch that.
    """


class ContractError(TmrlError, AssertionError):
    """`tmrl.testing.check_memory` found that a memory breaks the documented interface.

    Attributes:
        findings: What breaks it, one sentence each.
    """

    def __init__(self, name: str, findings: list[str]) -> None:
        self.findings = tuple(findings)
        listed = "".join(f"\n- {finding}" for finding in findings)
        super().__init__(f"{name} breaks the interface of tmrl.memory.Memory:{listed}")


class DatasetError(TmrlError, ValueError):
    """A dataset that cannot be read, with the reason and the remedy."""


class UnsafePickleError(DatasetError):
    """A pickle names more than arrays, scalars and builtin containers; nothing was run."""


class StorageError(TmrlError, OSError):
    """A folder that a memory or a log cannot live in.

    It is full, cannot be written, is damaged, or another process writes it.
    """


class ParcelError(TmrlError, ValueError):
    """Bytes that came from a peer are no parcel of samples, or a damaged or a hostile one."""


class PolicyError(TmrlError, ValueError):
    """A policy file that cannot be read, or that could only be read by running what it holds."""


class ProtocolError(TmrlError, ValueError):
    """What a peer sent is no message, or none that makes sense here; the connection ends."""


class LineLostError(TmrlError, ConnectionError):
    """A connection is gone, or could not be made; nothing is lost, it is tried again."""


class RefusedError(TmrlError, ConnectionError):
    """The other end of a line refused it, and would again; the message gives its reason."""


class CredentialError(TmrlError, ValueError):
    """A credential of the secure line that cannot be used; the message says the file and the remedy.

    It never holds a private key, and neither does its cause.
    """


class StalledError(TmrlError, TimeoutError):
    """A wait outlasted its limit; the message says what was awaited, from whom and since when."""
