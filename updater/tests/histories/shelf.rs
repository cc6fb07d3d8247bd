//! The releases of a history: small, some blocks of each in others too, with kernel images
//! that boot loaders read.

use std::collections::BTreeMap;

use partition_layout::{
    Architecture, BootEntry, DiskLayout, DiskPlan, Form, RootHash, Sizes, Slot, create,
};
use release::Release;
use sha2::{Digest as _, Sha256};

use super::dice::Dice;
use super::disk::{SimDisk, View};
use super::node::SimNode;
use super::vfat::Vfat;
use crate::fake::Image;
use crate::network::{blob, block, image_of};

const MIB: u64 = 1 << 20;
/// Releases that may be staged; one more is for the end.
pub(crate) const RELEASES: u8 = 12;
pub(crate) const LAST: &str = "99";
const MOST_BLOCKS: usize = 64;

/// All releases, by their names.
pub(crate) fn releases(dice: &mut Dice) -> Vec<(Release, Image)> {
    let mut names: Vec<_> = (1..=RELEASES).map(|number| number.to_string()).collect();
    names.push(LAST.to_owned());
    let numbered = (1_u8..).zip(names);
    numbered
        .map(|(seed, name)| {
            let blocks = 16 + dice.below(MOST_BLOCKS - 16);
            let root = (0..blocks).flat_map(|number| match dice.below(4) {
                0 => vec![0; 4096],
                1 => block(0, number),
                _ => block(seed, number),
            });
            let (mut release, mut image) = image_of(&name, seed, root.collect());
            image.uki = kernel_image(&name, &image.root_hash, 1500 + dice.below(2000));
            release.blobs.uki = blob(&image.uki);
            (release, image)
        })
        .collect()
}

/// A PE image with the two sections that say what it boots.
fn kernel_image(version: &str, root_hash: &RootHash, len: usize) -> Vec<u8> {
    let os_release = format!("ID=bistable\nIMAGE_ID=bistable\nIMAGE_VERSION={version}\n");
    let command_line = format!("roothash={root_hash} gpt panic=10");
    let mut image = vec![b'x'; len];
    image[..0x400].fill(0);
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x80_u32.to_le_bytes());
    put(0x80, b"PE\0\0\0\0\x02\0");
    put(0x94, &0x70_u16.to_le_bytes());
    for (number, (name, text)) in [(b".osrel\0\0", os_release), (b".cmdline", command_line)]
        .into_iter()
        .enumerate()
    {
        let header = 0x80 + 24 + 0x70 + 40 * number;
        let offset = 0x400 + 128 * number;
        let (len, place) = (u32::try_from(text.len()), u32::try_from(offset));
        put(header, name);
        put(header + 8, &len.unwrap().to_le_bytes());
        put(header + 16, &len.unwrap().to_le_bytes());
        put(header + 20, &place.unwrap().to_le_bytes());
        put(offset, text.as_bytes());
    }
    image
}

/// The digest of each kernel image, as the inspector tells it.
pub(crate) fn kernels(releases: &[(Release, Image)]) -> BTreeMap<RootHash, String> {
    let digest = |image: &Image| hex::encode(Sha256::digest(&image.uki));
    let images = releases.iter().map(|(_, image)| image);
    images
        .map(|image| (image.root_hash, digest(image)))
        .collect()
}

/// A node that runs `image` from slot A, good; slot B is empty.
pub(crate) fn node(image: &Image) -> SimNode {
    let plan = DiskPlan {
        sizes: Sizes {
            esp: 3 * MIB,
            root: MIB / 2,
            verity: 32 << 10,
            verity_sig: 4096,
        },
        slot_a: Some((image.version.clone(), image.root_hash)),
        ..DiskPlan::new(Architecture::of_build(), Form::Full)
    };
    let mut disk = SimDisk::blank(plan.smallest_disk());
    create(&mut disk, &plan).unwrap();
    let (layout, _) = DiskLayout::read(&disk).unwrap();
    for (place, bytes) in [
        (layout.slot_a.root.start, &image.root),
        (layout.slot_a.verity.start, &image.verity),
    ] {
        disk.write(View::Root(Slot::A), place, bytes).unwrap();
    }
    disk.sync(View::Root(Slot::A)).unwrap();

    let mut vfat = Vfat::at(layout.esp.start, layout.esp.len);
    vfat.format(&disk).unwrap();
    let name = BootEntry::good(image.version.clone()).file_name();
    vfat.create(&disk, &name).unwrap();
    vfat.write(&disk, &name, 0, &image.uki).unwrap();
    vfat.write_all(&mut disk, &mut Dice::new(0)).unwrap();
    disk.sync(View::Esp).unwrap();
    SimNode::new(
        disk,
        vfat,
        (Slot::A, image.version.clone(), image.root_hash),
    )
}
