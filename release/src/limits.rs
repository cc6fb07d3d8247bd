//! The limits that a node holds the network to, and a publisher keeps.
//!
//! Nothing is read from the network before one of these bounds its size.

/// The largest channel file, in bytes.
pub const MAX_CHANNEL_BYTES: u64 = 16 * KIB;
/// The largest release file, in bytes.
pub const MAX_RELEASE_BYTES: u64 = 64 * KIB;
/// The most releases a channel lists. With the longest version (27 bytes)
/// each, that is 9 KiB of the channel file's 16.
pub const MAX_CHANNEL_RELEASES: usize = 256;

/// The block size of root image and hash tree, in bytes. The kernel takes no
/// data block larger than a page, and one size spares the node every question
/// of alignment.
pub const BLOCK_SIZE: u64 = 4 * KIB;
/// The largest root image, in bytes.
pub const MAX_ROOT_IMAGE_BYTES: u64 = 8 * GIB;
/// The largest hash area (superblock and tree), in bytes: that of the largest
/// root image, rounded up.
pub const MAX_HASH_AREA_BYTES: u64 = 65 * MIB;
/// The largest UKI, in bytes: two of them, and a third being written, must fit
/// on the 512 MiB ESP.
pub const MAX_UKI_BYTES: u64 = 128 * MIB;
/// The largest bill of materials, in bytes.
pub const MAX_SBOM_BYTES: u64 = 32 * MIB;
/// The longest salt, in bytes: the superblock has no room for more.
pub const MAX_SALT_BYTES: usize = 256;
/// The longest release notes, in bytes.
pub const MAX_NOTES_BYTES: usize = 16 * 1024;

/// The most blocks that a frame of a pack unpacks to: 1 MiB. With
/// [`PACK_BASE_BLOCKS`] and [`MAX_PACK_FRAME_BYTES`] it is the memory that a
/// node needs for unpacking.
pub const PACK_FRAME_BLOCKS: u64 = 256;
/// The most blocks of the base that a frame of a pack refers to: 4 MiB.
pub const PACK_BASE_BLOCKS: u64 = 1024;
/// The largest frame of a pack, in bytes: what zstd makes of a whole frame that
/// it cannot compress has some more bytes than the blocks.
pub const MAX_PACK_FRAME_BYTES: u64 = PACK_FRAME_BLOCKS * BLOCK_SIZE + 8 * KIB;
/// The most frames of a pack: the largest root image in frames of 128 KiB.
pub const MAX_PACK_FRAMES: u64 = 64 * KIB;
/// The largest index of a pack, unpacked, in bytes.
pub const MAX_PACK_INDEX_BYTES: u64 = 8 * MIB;
/// The largest head (header and packed index) of a pack, in bytes.
pub const MAX_PACK_HEAD_BYTES: u64 = MAX_PACK_INDEX_BYTES + 64 * KIB;
/// The largest pack, in bytes: one that is larger than the largest image serves
/// nobody.
pub const MAX_PACK_BYTES: u64 = MAX_ROOT_IMAGE_BYTES;
/// The most patches of the root image, and of the UKI, that a release has.
pub const MAX_PATCHES: usize = 16;
/// The longest seed of a rollout, in bytes.
pub const MAX_SEED_BYTES: usize = 64;

/// The largest TUF root file, in bytes.
pub const MAX_TUF_ROOT_BYTES: u64 = 64 * KIB;
/// The largest TUF timestamp file, in bytes.
pub const MAX_TUF_TIMESTAMP_BYTES: u64 = 16 * KIB;
/// The largest TUF snapshot file, in bytes.
pub const MAX_TUF_SNAPSHOT_BYTES: u64 = 16 * KIB;
/// The largest TUF targets file, in bytes: some 3000 releases.
pub const MAX_TUF_TARGETS_BYTES: u64 = MIB;
/// The most TUF root files that a node follows in one check.
pub const MAX_TUF_ROOT_UPDATES: u64 = 256;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
