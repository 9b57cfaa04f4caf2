"""Which files of a Windows guest an adaptation may change. What is in the hives: keys.py.

"/C" is the system volume, "/ESP" the EFI system partition.
"""

from __future__ import annotations

from refloat.guest.boundary import Boundary, Rule


def _allowed(pattern: str, because: str) -> Rule:
    return Rule(pattern, because, any_case=True)


_CONFIG = "/C/Windows/System32/config"

ALLOWED = (
    _allowed(f"{_CONFIG}/SYSTEM", "services, devices and settings for the destination's hardware"),
    _allowed(f"{_CONFIG}/SOFTWARE", "where Windows looks for drivers"),
    _allowed("/ESP/EFI/Microsoft/Boot/BCD", "the boot menu's display on the destination's adapter"),
    _allowed("/C/Boot/BCD", "the boot menu's display on the destination's adapter"),
    _allowed("/ESP/EFI/Boot", "holds what a firmware without boot entries starts"),
    _allowed("/ESP/EFI/Boot/bootx64.efi", "what a firmware without boot entries starts"),
    _allowed("/ESP/EFI/Boot/bootia32.efi", "what a firmware without boot entries starts"),
    _allowed("/ESP/EFI/Boot/bootaa64.efi", "what a firmware without boot entries starts"),
    _allowed("/C/Windows/System32/drivers/*.sys", "drivers for the destination's disks"),
    _allowed("/C/Windows/Refloat", "first-boot files, removed by the guest itself"),
    _allowed("/C/Windows/Refloat/**", "first-boot files, removed by the guest itself"),
)

FORBIDDEN = (
    _allowed(f"{_CONFIG}/SAM*", "users and passwords"),
    _allowed(f"{_CONFIG}/SECURITY*", "secrets and domain membership"),
    _allowed(f"{_CONFIG}/DEFAULT*", "a user's profile"),
    _allowed("/C/Users/**", "users' data"),
    _allowed("/C/ProgramData/**", "application data"),
    _allowed("/C/Program Files*/**", "applications"),
    _allowed("/C/Windows/NTDS/**", "the domain's directory"),
    _allowed("/C/Windows/SYSVOL/**", "the domain's directory"),
)

WINDOWS = Boundary(ALLOWED, FORBIDDEN)
