//! The protective MBR: the first sector, which keeps old tools off a GPT disk.
//!
//! Source: UEFI 2.10, 5.2.3 "Protective MBR".

use crate::device::Device;
use crate::header::{Fields, Geometry};
use crate::health::MbrFault;

const BYTES: usize = 512;
const CODE_BYTES: usize = 446;
const RECORD_BYTES: usize = 16;
const GPT_PROTECTIVE: u8 = 0xee;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// Reads the first sector and returns what is wrong with it.
pub(crate) fn check(device: &impl Device, geometry: Geometry) -> Option<MbrFault> {
    let mut sector = [0; BYTES];
    if let Err(source) = device.read_at(0, &mut sector) {
        return Some(MbrFault::Unreadable { source });
    }
    let (_, rest) = sector.split_at(CODE_BYTES);
    let (records, signature) = rest.split_at(4 * RECORD_BYTES);
    let records = || records.chunks_exact(RECORD_BYTES).filter_map(Record::parse);
    let foreign = records().any(|record| record.kind != GPT_PROTECTIVE && record.kind != 0);
    if signature != SIGNATURE {
        return Some(MbrFault::Missing);
    }
    if foreign {
        return Some(MbrFault::Foreign);
    }
    let protective = records().find(|record| record.kind == GPT_PROTECTIVE && record.start == 1);
    let Some(protective) = protective else {
        return Some(MbrFault::Missing);
    };
    let wanted = protected_sectors(geometry);
    // Tools that do not know the size write all ones, as the specification allows.
    let fits = protective.sectors == wanted || protective.sectors == u32::MAX;
    let found = protective.sectors;
    (!fits).then_some(MbrFault::Size { found, wanted })
}

/// Returns the first 512 bytes of the disk with a protective MBR that fits it.
///
/// What stands before the records (boot code, disk signature) is kept.
pub(crate) fn protective(before: &[u8], geometry: Geometry) -> Vec<u8> {
    let mut sector: Vec<u8> = before.iter().copied().take(CODE_BYTES).collect();
    sector.resize(CODE_BYTES, 0);
    // Not bootable; from cylinder 0, head 0, sector 2; type; to the largest CHS address.
    sector.extend([0x00, 0x00, 0x02, 0x00, GPT_PROTECTIVE, 0xff, 0xff, 0xff]);
    sector.extend(1_u32.to_le_bytes());
    sector.extend(protected_sectors(geometry).to_le_bytes());
    sector.resize(CODE_BYTES + 4 * RECORD_BYTES, 0);
    sector.extend(SIGNATURE);
    sector
}

/// Every sector after the first, as many of them as the field can say.
fn protected_sectors(geometry: Geometry) -> u32 {
    u32::try_from(geometry.last_lba).unwrap_or(u32::MAX)
}

struct Record {
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Record {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let [_status, _, _, _, kind, _, _, _] = fields.take()?;
        let (start, sectors) = (fields.u32()?, fields.u32()?);
        Some(Self {
            kind,
            start,
            sectors,
        })
    }
}
