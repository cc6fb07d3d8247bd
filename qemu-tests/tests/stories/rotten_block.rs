//! Story 10: a block of the booted image that rots is found and mended before anybody runs into
//! it, and so is one of the kernel image.

use anyhow::{Result, ensure};
use partition_layout::Slot;
use qemu_tests::bus::Bus;
use qemu_tests::call::Call;
use qemu_tests::deadline::{Deadline, Look};
use qemu_tests::node::BOOT_SECONDS;
use qemu_tests::outside::OutsideDisk;
use qemu_tests::seat::Seat;
use qemu_tests::smbios::Handed;
use qemu_tests::story::{expect_slots, tell};

use crate::tale::{EMPTY, at_rest, good};

const SCRUB: Call = Call {
    name: "scrub",
    line: "/usr/bin/bistable scrub",
};
const HAPPENED: Call = Call {
    name: "happened",
    line: "/usr/bin/bistable history",
};

/// Where in the image: among the kernel modules, which lie in the order of their paths, at
/// one of a file system that no node of ours has.
pub(crate) const PERCENT: u64 = 72;

/// What the files there are called.
const FILES: &str = "(/usr/lib/modules/";

/// Waits until something, which the message names, was mended, and returns how that is told.
pub(crate) async fn mended(bus: &Bus, what: &str) -> Result<String> {
    Deadline::after(BOOT_SECONDS)
        .until(format_args!("{what} to be mended"), async || {
            let history = bus.history().await?;
            let last = history.first().cloned().unwrap_or_default();
            ensure!(last["event"] != "rotten", "it was not mended: {last}");
            let message = last["message"].as_str().unwrap_or("").to_owned();
            Ok(if last["event"] == "mended" && message.contains(what) {
                Look::Found(message)
            } else {
                Look::NotYet(format!("the history ends with {last}"))
            })
        })
        .await
}

/// Changes a kernel image, as time does, and returns what it was.
pub(crate) fn rot_kernel(disk: &OutsideDisk, entry: &str) -> Result<Vec<u8>> {
    let sound = disk.kernel(entry)?;
    disk.flip_in_kernel(entry)?;
    ensure!(
        disk.kernel(entry)? != sound,
        "the kernel image is not rotten"
    );
    Ok(sound)
}

#[tokio::test(flavor = "multi_thread")]
async fn rotten_blocks_of_the_booted_image_and_of_its_kernel_are_found_and_mended() -> Result<()> {
    tell("rotten-block", async |story| {
        let one = story.image("1")?;
        let shop = story.open_shop(&["1"]).await?;
        let handed = Seat::hand_in(&[SCRUB, HAPPENED], shop.configure(Handed::default()));
        let machine = story.machine_with_probe(handed, &[])?;
        machine
            .disk()?
            .flip(Slot::A, one.sizes.root / 100 * PERCENT)?;
        ensure!(
            machine.disk()?.expect_root(Slot::A, &one).is_err(),
            "the block is not rotten"
        );
        let node = machine.power_on().await?;
        let bus = node.bus().await?;
        at_rest(&bus).await?;
        expect_slots(&bus, Slot::A, good(&one), EMPTY).await?;
        story.step("release 1 runs, with a rotten block");

        let mut seat = Seat::at(story, &node, &bus)?;
        let soon = || Deadline::after(BOOT_SECONDS);
        seat.exits(SCRUB, 0, soon()).await?;
        let message = mended(&bus, "block ").await?;
        ensure!(
            message.contains(FILES) && message.contains("from the repository"),
            "it was told without a file, or came from elsewhere: {message}"
        );
        story.step(&message);
        let told = seat.exits(HAPPENED, 0, soon()).await?.out;
        ensure!(told.contains("mended") && told.contains(FILES), "{told}");

        // What the kernel image is, was written down when it was read just now.
        let entry = one.good_entry();
        let sound = node.look_at_disk(|disk| rot_kernel(disk, &entry)).await?;
        bus.scrub().await?;
        let message = mended(&bus, "kernel image").await?;
        story.step(&message);

        let disk = node.shut_down().await?.disk()?;
        ensure!(
            disk.kernel(&entry)? == sound,
            "the kernel image is not mended"
        );
        disk.expect_root(Slot::A, &one)
    })
    .await
}
