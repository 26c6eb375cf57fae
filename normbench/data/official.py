"""The two data sets of Krizhevsky that are read from their official files: CIFAR-10 and CIFAR-100.

Sizes and MD5s are those of https://www.cs.toronto.edu/~kriz/cifar.html; torchvision has the same. Both hold 50,000
training and 10,000 test images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Official:
    """A data set by its official archive."""

    key: str
    label: str
    num_classes: int
    batches_folder: str
    """The folder in the archive."""
    archive_file: str
    archive_bytes: int
    archive_md5: str
    max_file_bytes: int
    """The most bytes of a file in the folder: more is damage."""
    torchvision_class: str
    """The class of `torchvision.datasets` that reads the folder, and knows the MD5 of each file in it."""

    @property
    def npz_file(self) -> str:
        """The name of the file that holds the images uncompressed."""
        return f"{self.key}.npz"

    @property
    def url(self) -> str:
        """Where the archive is published."""
        return f"https://www.cs.toronto.edu/~kriz/{self.archive_file}"

    @property
    def url_variable(self) -> str:
        """The environment variable that names a mirror of the archive."""
        return f"NORMBENCH_{self.key.upper()}_URL"

    @property
    def flag(self) -> str:
        """What follows a command of ``normbench data`` for this data set and not CIFAR-10, with a space."""
        return "" if self.key == "cifar10" else f" --dataset {self.key}"

    @property
    def accepted(self) -> tuple[str, ...]:
        """Names looked for in a folder, of which the first is taken. The archive is last: it has to be unpacked."""
        return (self.batches_folder, self.npz_file, self.archive_file)


CIFAR10 = Official(
    key="cifar10",
    label="CIFAR-10",
    num_classes=10,
    batches_folder="cifar-10-batches-py",
    archive_file="cifar-10-python.tar.gz",
    archive_bytes=170_498_071,
    archive_md5="c58f30108f718f92721af3b95e74349a",
    max_file_bytes=1 << 26,  # there are six of 31 MB
    torchvision_class="CIFAR10",
)
CIFAR100 = Official(
    key="cifar100",
    label="CIFAR-100",
    num_classes=100,
    batches_folder="cifar-100-python",
    archive_file="cifar-100-python.tar.gz",
    archive_bytes=169_001_437,
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    max_file_bytes=1 << 28,  # there is one of 155 MB
    torchvision_class="CIFAR100",
)
OFFICIAL: Mapping[str, Official] = MappingProxyType({entry.key: entry for entry in (CIFAR10, CIFAR100)})
