//! Story 1: release 1 boots under dm-verity, runs a container, and finds its `/var` again, also
//! beside a disk that looks the same.

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::call::Call;
use qemu_tests::console::Mark;
use qemu_tests::container;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::node::BOOT_SECONDS;
use qemu_tests::probe::{self, Request};
use qemu_tests::smbios::Handed;
use qemu_tests::story::{TWIN, expect_disk, expect_slots, tell};

use crate::tale::{EMPTY, at_rest, good};

/// Rung 3: the tests of `verity` on the kernel's own device-mapper.
const KERNEL_TESTS: Call = Call {
    name: "kernel-tests",
    line: "/run/probe/kernel-tests --test-threads=1",
};

const CHECK_OF_VAR: &str = "systemd-fsck@dev-disk-by\\x2dbistable-var.service";
const NETWORK_MARK: &str = "/var/lib/bistable/gate/network";
const REMEMBERED: &str = "/var/lib/story";

fn container_unit() -> String {
    format!(
        "[Unit]\nDescription=A container from outside\nRequires=containerd.service\nAfter=containerd.service\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nStandardOutput=journal+console\nStandardError=journal+console\n\
         ExecStart=/usr/bin/ctr images import /dev/disk/by-id/virtio-container\n\
         ExecStart=/usr/bin/ctr run --rm {} story\n",
        container::IMAGE
    )
}

/// What the root image may weigh, the kernel's modules and our own programs included.
const ROOT_BYTES: u64 = 130_000_000;
/// What kernel and initrd may weigh.
const UKI_BYTES: u64 = 18_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn release_1_boots_under_verity_runs_a_container_and_keeps_only_var() -> Result<()> {
    tell("boot", async |story| {
        let one = story.image("1")?;
        let sizes = one.sizes;
        ensure!(
            sizes.root <= ROOT_BYTES && sizes.uki <= UKI_BYTES,
            "the shipped image has outgrown its limits: {sizes:?}"
        );
        let program = probe::build(story.folder())?;
        let archive = container::write(story.folder(), &program, &["hello"])?;
        let handed = Handed::default().unit("container-story.service", &container_unit());
        let kernel_tests = story.fixtures().kernel_tests()?;
        let node = story
            .machine_with_probe(
                KERNEL_TESTS.hand_in(handed),
                &[("kernel-tests", &kernel_tests)],
            )?
            .with_two_processors()
            .with_disk("container", &archive)
            .power_on()
            .await?;

        let bus = node.bus().await?;
        story.step("the bus answers");
        let failed = bus
            .failed_units_once_started(Deadline::after(BOOT_SECONDS))
            .await?;
        ensure!(failed.is_empty(), "these units failed: {failed:?}");
        story.step("all units have started");
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;

        // The kernel itself says what the root stands on.
        let mounts = node.probe(&Request::Read("/proc/self/mounts")).await?;
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some("/"))
            .unwrap_or_default();
        ensure!(
            root.starts_with("/dev/dm-0 / erofs ro")
                || root.starts_with("/dev/mapper/root / erofs ro"),
            "the root is {root:?}"
        );
        for slave in ["vda2", "vda3"] {
            let path = format!("/sys/block/dm-0/slaves/{slave}/partition");
            node.probe(&Request::Read(&path)).await?;
        }
        for path in ["/altered", "/usr/bin/altered", "/usr/lib/os-release"] {
            let refused = node.probe(&Request::Write(path, "x")).await;
            let error = refused.expect_err("the root was written to").to_string();
            ensure!(error.contains("Read-only file system"), "{path}: {error}");
        }

        let tested = KERNEL_TESTS
            .exits(&node, &bus, 0, Deadline::after(BOOT_SECONDS))
            .await?;
        // On a machine without a device-mapper to use they skip, saying so, and pass.
        ensure!(
            tested.out.contains("test result: ok.")
                && !tested.out.contains(" 0 passed")
                && !tested.err.contains("skipped"),
            "{tested:?}"
        );
        story.step("the kernel's dm-verity does as ours");

        let mark = node.console().mark();
        bus.start_unit("container-story.service").await?;
        bus.unit_has_run("container-story.service", Deadline::after(BOOT_SECONDS))
            .await?;
        let said = node
            .console()
            .wait_for(mark, "container says hello", Deadline::after(60))
            .await?;
        ensure!(
            said.text.contains("process 1,"),
            "the container shares the node's processes: {:?}",
            said.text
        );
        story.step("a container ran");

        node.probe(&Request::Write(REMEMBERED, "what was")).await?;
        let machine_id = node.probe(&Request::Read("/etc/machine-id")).await?;
        let machine = node.shut_down().await?;
        story.step("switched off");
        let var = machine.disk()?.layout().var.as_ref().map(|var| var.uuid);
        ensure!(var.is_some(), "there is no /var on the disk");
        expect_disk(&machine, Some(&one), None, &[&one.good_entry()])?;

        // The copy of a node's disk, as a snapshot is attached: it has a /var of the same name, and cannot be written.
        let twin = machine.copy_disk(TWIN)?;
        let node = machine.with_disk("twin", &twin).power_on().await?;
        let bus = node.bus().await?;
        let twin = "/sys/class/block/vdd8/partition";
        ensure!(
            node.probe(&Request::Read(twin)).await? == "8\n",
            "the copy of the disk is not there"
        );
        let mounts = node.probe(&Request::Read("/proc/self/mounts")).await?;
        ensure!(
            mounts
                .lines()
                .any(|line| line.starts_with("/dev/vda8 /var ext4 rw")),
            "/var is on another disk: {mounts}"
        );
        bus.unit_has_run(CHECK_OF_VAR, Deadline::after(BOOT_SECONDS))
            .await?;
        ensure!(
            node.probe(&Request::Read(REMEMBERED)).await? == "what was",
            "/var was lost"
        );
        ensure!(
            node.probe(&Request::Read("/etc/machine-id")).await? == machine_id,
            "the machine is another one"
        );
        let failed = bus
            .failed_units_once_started(Deadline::after(BOOT_SECONDS))
            .await?;
        ensure!(
            failed.is_empty(),
            "these units failed at the second boot: {failed:?}"
        );
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        Deadline::after(BOOT_SECONDS)
            .until("the gate to remember that there is a network", async || {
                Ok(match node.probe(&Request::Read(NETWORK_MARK)).await {
                    Ok(_) => Look::Found(()),
                    Err(error) => Look::NotYet(format!("{error:#}")),
                })
            })
            .await?;
        ensure!(
            node.console().find(Mark::START, "is corrupted").is_none(),
            "something is corrupted"
        );
        let machine = node.shut_down().await?;
        ensure!(
            machine.disk()?.layout().var.as_ref().map(|var| var.uuid) == var,
            "/var was made anew"
        );
        expect_disk(&machine, Some(&one), None, &[&one.good_entry()])?;
        story.step("the second boot found its /var");
        Ok(())
    })
    .await
}
