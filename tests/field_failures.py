"""docs/field-failures.md from data: how recovered VMs fail elsewhere, and what becomes of each case here.

`python -m tests.field_failures` prints it, `--write` writes it; tests compare the two and look up each test
that is named as a proof.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "field-failures.md"
_WIDTH = 115
_WINDOWS = "Windows: see docs/windows.md"
_HEAD = """\
# How recovered VMs fail, and what Refloat does about it

Made by `python -m tests.field_failures --write` from the rows in `tests/field_failures.py`. A test keeps
it up to date, and another checks that each test that is named here exists.

The cases come from public issue trackers of tools that move or recover VMs. Each is met in one or several
of three ways:

- **detected**: the failover is refused, or the operator warned, before a disk is touched.
- **mended**: the adaptation or the first boot puts it right, and the evidence lists the change.
- **reported**: the verdict, the job or the event log says what happened, with the reason.
"""


class How(StrEnum):
    DETECTED = "detected"
    MENDED = "mended"
    REPORTED = "reported"


@dataclass(frozen=True)
class Case:
    """`met` says what Refloat does; `proofs` are pytest ids below tests/, without parameters. `windows`: the
    whole case or a part of it is of Windows guests. `seen` are public references."""

    number: int
    what: str
    how: tuple[How, ...] = ()
    met: str = ""
    proofs: tuple[str, ...] = ()
    seen: str = ""
    windows: bool = False


CASES: tuple[Case, ...] = (
    Case(
        1,
        "Windows has no storage driver that starts with the kernel",
        (How.DETECTED, How.MENDED),
        "viostor and vioscsi are made to start with the kernel, in the scheme that the guest's own "
        "registry has; SATA and NVMe start as well. Without drivers for the build the guest is refused.",
        (
            "unit/windows/test_values.py::test_the_scheme_follows_the_hive_not_the_version",
            "unit/test_windows.py::test_a_driver_that_does_not_start_at_boot_is_none",
        ),
        "forklift#1029, kubevirt#11332",
        windows=True,
    ),
    Case(
        2,
        "Windows has the driver, but its services are overridden",
        (How.MENDED,),
        "Every form of StartOverride is taken away from the services that must start.",
        ("unit/windows/test_values.py::test_no_form_of_start_override_is_left",),
        "kubevirt#16703, containerized-data-importer#4023",
        windows=True,
    ),
    Case(
        3,
        "The driver set is older than the Windows version",
        (How.DETECTED,),
        "The set is asked before a disk is touched; the refusal names the folder that was looked for, "
        "and what the set has.",
        (
            "unit/windows/test_drivers.py::test_a_set_without_this_build_is_refused_with_what_it_has",
            "unit/test_windows_jobs.py::test_a_refusal_changes_nothing_and_says_what_to_do",
        ),
        "cloudstack#13241",
        windows=True,
    ),
    Case(
        4,
        "Windows restarts without end because one driver fails",
        (How.MENDED, How.REPORTED),
        "At most three attempts a stage and three restarts in all, counted before each begins; an "
        "optional driver never fails the run.",
        (
            "unit/windows/test_firstboot_simulation.py::test_whatever_happens_it_ends_within_the_caps",
            "unit/test_reports.py::test_boots_are_counted_and_never_come_back",
        ),
        "virt-v2v#178",
        windows=True,
    ),
    Case(
        5,
        "Group policy or antivirus keeps drivers out",
        (How.DETECTED, How.REPORTED),
        "Policies that may keep drivers or scripts out are told at preflight; a driver counts as "
        "installed only where its device works.",
        (
            "unit/windows/test_inspect.py::test_policies_of_software",
            "unit/windows/test_inspect.py::test_policies_of_the_system",
            "unit/windows/test_firstboot_script.py::test_a_boot_driver_that_drives_nothing_fails_it",
            "unit/test_remediation.py::test_no_success_without_the_required_stages",
        ),
        "virt-v2v#13",
        windows=True,
    ),
    Case(
        6,
        "NTFS is hibernated or dirty, and changes are lost",
        (How.DETECTED,),
        "Refused with what to do, or discarded or repaired where the policy says so; every mount is "
        "proven to take writes.",
        (
            "unit/windows/test_end_to_end.py::test_what_is_refused_is_refused_untouched",
            "unit/windows/test_failover.py::test_a_windows_that_was_cut_off_is_rolled_back_untouched",
        ),
        "cloudstack#11561",
        windows=True,
    ),
    Case(
        7,
        "Windows leaves data disks offline after the bus changed",
        (How.MENDED,),
        "The planned disks are brought online, and only they; those of a cluster stay offline unless "
        "the policy names them.",
        (
            "unit/windows/test_firstboot_script.py::test_a_disk_of_a_cluster_stays_offline_unless_it_is_named",
            "unit/test_windows.py::test_only_its_own_disks_come_online_by_themselves",
        ),
        "virt-v2v PR 57, migration-manager#481",
        windows=True,
    ),
    Case(
        8,
        "A CD-ROM takes the letter of an offline disk",
        (How.REPORTED,),
        "The letters are known from MountedDevices and compared once the disks are online; one that is "
        "lost is a problem in the report.",
        (
            "unit/windows/test_firstboot_script.py::test_a_drive_letter_that_is_lost_is_a_problem",
            "unit/windows/test_inspect.py::test_drive_letters",
        ),
        "migration-manager PR 485",
        windows=True,
    ),
    Case(
        9,
        "The static address stays with an adapter that is gone",
        (How.MENDED,),
        "Adapters of VMware that are gone are removed, or their addresses are, before the new adapter "
        "gets them.",
        ("unit/windows/test_firstboot_script.py::test_a_stale_adapter_of_vmware_lets_go_of_its_addresses",),
        "forklift#1113, cloudstack#13704",
        windows=True,
    ),
    Case(
        10,
        "Further addresses are lost, and there is no choice per adapter",
        (How.MENDED,),
        "All addresses, gateways with metrics and name servers of each adapter are restored; the mode "
        "can be chosen for each.",
        (
            "unit/windows/test_network.py::test_the_real_windows_7_has_its_two_static_addresses",
            "unit/windows/test_firstboot_script.py::test_static_addresses_are_restored",
            "unit/test_windows.py::test_the_modes_are_those_of_any_guest",
        ),
        "forklift PR 6198",
        windows=True,
    ),
    Case(
        11,
        "The interface gets another name, and its configuration belongs to nothing",
        (How.MENDED, How.REPORTED),
        "The first boot finds each adapter by its MAC address and gives its configuration the name of the "
        "day. A configuration that is left alone keeps its old name by a link file or udev rule. An "
        "adapter that is not there is reported, and its configuration stays.",
        (
            "unit/guest/test_firstboot.py::test_configure_gives_nics_their_names",
            "unit/guest/test_firstboot.py::test_missing_nic_keeps_its_configuration",
            "unit/guest/test_staging.py::test_a_link_file_ties_one_name_to_one_address",
            "unit/test_decide.py::test_what_is_left_alone_keeps_its_name_by_policy",
            "system/test_guests.py::test_guest_boots_after_its_adaptation",
        ),
        "virt-v2v#99, virt-v2v#62",
    ),
    Case(
        12,
        "The configuration is tied to the old MAC address, or two adapters change places",
        (How.MENDED, How.DETECTED),
        "Ties to a MAC address in udev rules and in each network stack's files follow the adapter to its "
        "planned address. Adapters are matched by evidence, never by their order; where none is certain, "
        "the guest's networking is not rewritten, and the decision says so.",
        (
            "unit/test_field_failures.py::test_a_tie_to_the_old_address_follows_the_adapter",
            "unit/guest/test_guards.py::test_persistent_names_follow_the_adapter_to_its_new_address",
            "unit/guest/test_guards.py::test_two_adapters_that_swap_their_addresses_swap_their_names",
            "unit/guest/test_firstboot.py::test_two_adapters_with_their_order_swapped",
            "unit/test_decide.py::test_no_order_of_adapters_or_files_matters",
            "unit/test_decide.py::test_never_a_guess_between_interfaces",
        ),
        "coriolis PR 505, forklift PR 3781",
    ),
    Case(
        13,
        "The destination has another subnet, and nothing tells the guest",
        (How.MENDED, How.DETECTED),
        "Rules of the network's mapping turn addresses, gateway and DNS servers into those of the other "
        "subnet. An address that no rule covers is refused at preflight.",
        (
            "unit/test_decide.py::test_readdressing_keeps_the_host",
            "unit/test_decide.py::test_readdressing_with_what_the_rule_names",
            "unit/test_decide.py::test_what_no_rule_says_is_refused",
            "unit/test_decide.py::test_own_addresses_of_an_adapter",
        ),
        "migratekit#34",
    ),
    Case(
        14,
        "cloud-init takes the recovered VM for a new machine",
        (How.MENDED,),
        "The adaptation keeps cloud-init at the instance that it knows and away from the network. Host "
        "keys, users and passwords are compared after a boot at the destination.",
        (
            "unit/guest/test_guards.py::test_cloud_init_keeps_its_instance_and_its_hands_off_the_network",
            "unit/guest/test_guards.py::test_a_cloud_init_that_never_ran_does_not_begin_now",
            "system/test_guests.py::test_without_its_guard_cloud_init_makes_a_new_instance",
        ),
        "cloud-init#3506, cloud-init#2797",
    ),
    Case(
        15,
        "An adapter is replaced, its MAC address is used twice, or only the first one is carried over",
        (How.MENDED, How.REPORTED),
        "Each adapter of the source is planned by itself and created with its planned address. The "
        "recovered VM never runs on a production network while the source does. The guest reports the "
        "addresses that it sees; one that is missing fails the network facet.",
        (
            "unit/test_field_failures.py::test_every_adapter_is_carried_with_its_own_address",
            "unit/test_invariants.py::test_a_violated_invariant_stops_the_job",
            "unit/test_verdict.py::test_sabotage_never_succeeds_and_names_its_cause",
            "system/test_failover.py"
            "::test_a_nic_with_another_mac_fails_the_verdict_by_a_report_without_network",
        ),
        "cloudstack#7457, cloudstack#6951",
    ),
    Case(
        16,
        "The initramfs lacks the driver, and the root device never appears",
        (How.MENDED, How.DETECTED),
        "What each kernel's initramfs lacks is appended, with a new module index. Where nothing can be "
        "appended, the guest's own tool makes a new one, if the policy allows its code to run; else, and "
        "for a kernel without the driver, the guest is refused and the cause named.",
        (
            "unit/guest/test_initramfs.py::test_append_behind_every_format",
            "unit/guest/test_kernels.py::test_kernel_without_the_driver_is_named",
            "unit/guest/test_kernels.py::test_newest_kernel_that_cannot_be_adapted_is_a_problem",
            "unit/guest/test_fallback.py::test_it_must_be_allowed",
            "system/test_rebuild.py::test_guest_boots_with_what_its_own_tool_made",
            "system/test_guests.py::test_unadapted_guest_does_not_reach_its_root",
        ),
        "kubevirt#11133",
    ),
    Case(
        17,
        "LVM's devices file names the old disks, and volumes are not found",
        (How.MENDED, How.DETECTED),
        "A devices file that pins ids of the old disks is switched off in lvmlocal.conf; it is not "
        "rewritten. A filter that would hide the new disks is a problem.",
        (
            "unit/guest/test_storage.py::test_a_devices_file_that_pins_old_disks_is_switched_off",
            "unit/guest/test_storage.py::test_a_devices_file_that_pins_nothing_stays",
            "unit/guest/test_storage.py::test_filters",
        ),
        "rear#3042",
    ),
    Case(
        18,
        "fstab or the boot loader names disks by the bus, or the loader is written for the other firmware",
        (How.MENDED, How.DETECTED),
        "Names that follow the bus become UUIDs in fstab, crypttab and every loader's entries. No loader "
        "is installed or generated anew, so it stays that of the guest's firmware. A name whose "
        "filesystem is not certain is a problem.",
        (
            "unit/guest/test_storage.py::test_names_follow_the_order_of_the_disks",
            "unit/guest/test_storage.py::test_unmappable_entry_is_a_problem_unless_it_may_fail",
            "unit/guest/test_boot.py::test_golden",
            "unit/guest/test_boot.py::test_several_loaders_are_all_kept_right",
            "unit/test_decide.py::test_firmware_that_differs_is_refused",
        ),
        "virt-v2v PR 160",
    ),
    Case(
        19,
        "The firmware is another one, or its boot entries are lost and there is no fallback loader",
        (How.DETECTED, How.MENDED),
        "Another firmware than the guest boots by is refused. Where the system partition has no fallback "
        "loader, the guest's own shim and GRUB are copied there.",
        (
            "unit/test_decide.py::test_firmware_that_differs_is_refused",
            "unit/guest/test_boot_esp.py::test_shim_alone_gets_what_it_starts",
            "unit/guest/test_unnamed_esp.py::test_a_guest_gets_its_fallback_loader",
            "unit/guest/test_unnamed_esp.py::test_a_guest_with_two_is_refused_and_told_why",
        ),
        "cloudstack#5754, cloudstack#9645",
        windows=True,
    ),
    Case(
        20,
        "Secure Boot, or a disk whose key is sealed into a TPM that stays behind",
        (How.DETECTED, How.MENDED),
        "A container that is unlocked by a TPM or a token is told at preflight, in words: the key is not "
        "replicated. The fallback loader is shim where the guest has one. The libvirt destination does "
        "not enforce Secure Boot.",
        (
            "unit/test_field_failures.py::test_a_key_in_a_tpm_is_told_before_anything_is_touched",
            "unit/guest/test_storage.py::test_what_a_boot_needs_to_unlock",
            "unit/guest/test_boot_esp.py::test_loaders",
        ),
        "virt-v2v PR 152",
        windows=True,
    ),
    Case(
        21,
        "Inspection ends half-way at an encrypted disk",
        (How.DETECTED,),
        "What has no passphrase, or a wrong one, is named, and nothing stays open. Passphrases come from "
        "files that the policy names and are in no argument, log or evidence.",
        (
            "unit/guest/test_stack.py::test_wrong_passphrase",
            "unit/guest/test_stack.py::test_what_cannot_be_opened_is_said_and_the_rest_goes_on",
            "unit/guest/test_stack.py::test_the_passphrase_is_in_no_argument",
            "unit/test_jobs.py::test_passphrases_reach_the_controller_and_nothing_else",
        ),
        "forklift#3033",
        windows=True,
    ),
    Case(
        22,
        "The wrong disk is taken for the root, or the wrong one boots",
        (How.DETECTED, How.REPORTED),
        "Two possible roots are ambiguous and refused. The disk with the root becomes the first one and "
        "is the only one that boots; the guest reports its disks, and another order fails the verdict.",
        (
            "unit/guest/test_disk.py::test_two_roots_are_ambiguous_and_none_is_said",
            "unit/guest/test_disk.py::test_two_systems_in_one_btrfs_are_ambiguous",
            "unit/destinations/test_libvirt_xml.py::test_only_the_first_disk_boots",
            "unit/test_verdict.py::test_another_disk_order_than_planned_fails",
        ),
        "migratekit#137",
    ),
    Case(
        23,
        "Inspection fails on an unusual guest, and a VM is made all the same",
        (How.DETECTED,),
        "What inspection cannot make sense of is a problem, and a guest with a problem is refused in "
        "preflight, before the source is stopped.",
        (
            "unit/guest/test_adapt.py::test_problems",
            "unit/guest/test_families.py::test_image_based_relatives_are_refused_with_the_reason",
            "unit/test_decide.py::test_problems_refuse_with_their_own_words",
            "unit/test_jobs.py::test_a_refusal_in_preflight_changes_nothing",
        ),
        "forklift#494, virt-v2v#54",
    ),
    Case(
        24,
        "Success is claimed of a VM that does not work",
        (How.REPORTED,),
        "Only this boot's own reports from inside the guest, together with what is seen from outside, "
        "make a success. Silence is none, and each failed facet names its cause.",
        (
            "unit/test_verdict.py::test_sabotage_never_succeeds_and_names_its_cause",
            "unit/test_verdict.py::test_no_facets_at_all_is_no_success",
            "unit/test_reports.py::test_a_sequence_that_does_not_rise_is_a_replay",
            "unit/test_jobs.py::test_no_report_is_no_success",
            "unit/test_jobs.py::test_a_job_that_was_rolled_back_says_what_it_failed_of",
        ),
        "cloudstack#9645, forklift#1029",
    ),
    Case(
        25,
        "An aborted run loses disks, runs the VM twice or leaves a half-changed replica",
        (How.DETECTED, How.MENDED, How.REPORTED),
        "Each step has its undo. A rollback ends with the content of the sync point, whatever failed and "
        "whenever a process was killed; where that cannot be proven, the job is blocked and says why.",
        (
            "unit/test_jobs.py::test_a_step_that_fails_is_rolled_back_with_its_cause",
            "unit/test_jobs.py::test_a_source_that_does_not_shut_down_ends_the_job_by_policy",
            "unit/test_jobs.py::test_an_undo_that_fails_blocks_but_the_source_comes_back",
            "unit/test_invariants.py::test_a_replica_that_was_written_blocks_its_rollback",
            "unit/test_invariants.py::test_the_source_is_not_powered_on_beside_the_recovered_vm",
            "unit/guest/test_undo.py::test_a_run_that_was_killed_anywhere_is_undone",
            "system/test_failover.py::test_killed_at_six_points_the_job_goes_on_and_rolls_back_byte_for_byte",
        ),
    ),
)


def render() -> str:
    return _HEAD + "".join(part for case in CASES for part in _case(case))


def _case(case: Case) -> Iterator[str]:
    yield f"\n## {case.number}. {case.what}\n\n"
    if case.met:
        yield textwrap.fill(f"**{', '.join(case.how)}**. {case.met}", _WIDTH, break_on_hyphens=False) + "\n\n"
        yield "".join(f"- `tests/{proof}`\n" for proof in case.proofs)
        if case.seen:
            yield f"\nSeen in: {case.seen}.\n"
    if case.windows:
        yield f"\n{_WINDOWS}.\n" if case.met else f"{_WINDOWS}.\n"


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        DOCUMENT.write_text(render())
    else:
        sys.stdout.write(render())


if __name__ == "__main__":
    main()
