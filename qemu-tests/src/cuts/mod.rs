//! Cuts of the power at every write: what a disk may hold when it fails, and whether
//! that boots.
//!
//! [`write_log`] reads what QEMU recorded of a disk, [`medium`] is that disk at some
//! moment, [`survival`] says what of the writes since the last flush is on it when the
//! power fails, [`judge`] tells what would boot, and [`replay`] goes through a whole
//! [`recording`] and counts.
//!
//! The model: what was logged before a flush is on the disk. Of what came after it,
//! each sector of 512 bytes is there or not, in whatever order it was written; sectors
//! are whole. QEMU logs a write when it is done, so one that ran while a flush did is
//! taken for flushed: states that only this would show are not seen.

pub mod dice;
pub mod judge;
pub mod medium;
pub mod recording;
pub mod replay;
pub mod survival;
pub mod tally;
pub mod write_log;
