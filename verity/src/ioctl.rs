//! The device-mapper's ioctls: requests and answers as bytes, and the one call.
//!
//! `include/uapi/linux/dm-ioctl.h`, interface version 4. Encoding and decoding
//! are pure and safe; only [`Request::send`] talks to the kernel.
#![expect(
    unsafe_code,
    reason = "the device-mapper has no interface but an ioctl of variable size"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem::{offset_of, size_of};
use std::path::Path;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::dm::{DeviceNumber, DeviceStatus, Dm, DmError, DmName, Operation, TargetStatus};
use crate::table::VerityTable;

/// `struct dm_ioctl`: in front of every request and answer.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`: in front of every target's text.
#[repr(C)]
struct Target {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

// What the kernel's headers compile to, on every 64-bit architecture. The size
// of `Header` is part of the ioctl numbers.
const _: () = {
    assert!(size_of::<Header>() == 312);
    assert!(offset_of!(Header, data_size) == 12);
    assert!(offset_of!(Header, data_start) == 16);
    assert!(offset_of!(Header, target_count) == 20);
    assert!(offset_of!(Header, open_count) == 24);
    assert!(offset_of!(Header, flags) == 28);
    assert!(offset_of!(Header, dev) == 40);
    assert!(offset_of!(Header, name) == 48);
    assert!(offset_of!(Header, uuid) == 176);
    assert!(offset_of!(Header, data) == 305);
    assert!(size_of::<Target>() == 40);
    assert!(offset_of!(Target, length) == 8);
    assert!(offset_of!(Target, next) == 20);
    assert!(offset_of!(Target, target_type) == 24);
};

const HEADER_SIZE: usize = size_of::<Header>();
const TARGET_SIZE: usize = size_of::<Target>();
/// Room for any answer to a question about one verity device.
const ANSWER_SIZE: usize = 16 * 1024;
/// The oldest interface with all that is asked for here; the kernel refuses
/// only a newer one than its own.
const VERSION: [u32; 3] = [4, 0, 0];

const READONLY: u32 = 1 << 0;
const ACTIVE_PRESENT: u32 = 1 << 5;
const BUFFER_FULL: u32 = 1 << 8;

const fn number(operation: Operation) -> Opcode {
    let number = match operation {
        Operation::Create => 3,
        Operation::Remove => 4,
        // DM_DEV_SUSPEND without its suspend flag.
        Operation::Resume => 6,
        Operation::Load => 9,
        Operation::Status => 12,
    };
    opcode::read_write::<Header>(0xfd, number)
}

/// The kernel's device-mapper.
#[derive(Debug)]
pub struct KernelDm {
    control: File,
}

impl KernelDm {
    /// Where devtmpfs puts the control device.
    pub const CONTROL: &'static str = "/dev/mapper/control";

    /// Opens the control device; [`CONTROL`](Self::CONTROL) is its usual path.
    ///
    /// # Errors
    /// It is not there (`dm-mod` is not loaded, say) or may not be opened.
    pub fn open(control: &Path) -> Result<Self, DmError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(control)
            .map(|control| Self { control })
            .map_err(|source| DmError::Open {
                path: control.display().to_string(),
                source,
            })
    }
}

impl Dm for KernelDm {
    fn create(&mut self, name: &DmName) -> Result<DeviceNumber, DmError> {
        Request::new(Operation::Create, name)
            .send(&self.control)?
            .device()
    }

    fn load(&mut self, name: &DmName, table: &VerityTable) -> Result<(), DmError> {
        Request::load(name, table).send(&self.control)?;
        Ok(())
    }

    fn resume(&mut self, name: &DmName) -> Result<(), DmError> {
        Request::new(Operation::Resume, name).send(&self.control)?;
        Ok(())
    }

    fn remove(&mut self, name: &DmName) -> Result<(), DmError> {
        Request::new(Operation::Remove, name).send(&self.control)?;
        Ok(())
    }

    fn status(&mut self, name: &DmName) -> Result<DeviceStatus, DmError> {
        Request::new(Operation::Status, name)
            .send(&self.control)?
            .status()
    }
}

/// A request as the kernel reads it.
#[derive(Debug)]
struct Request {
    operation: Operation,
    name: DmName,
    bytes: Vec<u8>,
}

impl Request {
    fn new(operation: Operation, name: &DmName) -> Self {
        Self::with_targets(operation, name, &[], 0)
    }

    fn load(name: &DmName, table: &VerityTable) -> Self {
        let mut text = table.to_string().into_bytes();
        text.push(0);
        // The next target would have to be aligned; the kernel checks `next`.
        text.resize(text.len().next_multiple_of(8), 0);
        let mut target = Vec::with_capacity(TARGET_SIZE + text.len());
        target.extend(0_u64.to_ne_bytes());
        target.extend(table.sectors().to_ne_bytes());
        target.extend(0_i32.to_ne_bytes());
        target.extend(size(TARGET_SIZE + text.len()).to_ne_bytes());
        target.extend(padded::<16>(VerityTable::TARGET));
        target.extend(text);
        Self::with_targets(Operation::Load, name, &target, 1)
    }

    fn with_targets(operation: Operation, name: &DmName, targets: &[u8], count: u32) -> Self {
        let total = (HEADER_SIZE + targets.len()).max(ANSWER_SIZE);
        let mut bytes = Vec::with_capacity(total);
        for part in VERSION {
            bytes.extend(part.to_ne_bytes());
        }
        bytes.extend(size(total).to_ne_bytes());
        bytes.extend(size(HEADER_SIZE).to_ne_bytes());
        bytes.extend(count.to_ne_bytes());
        bytes.extend(0_i32.to_ne_bytes());
        bytes.extend(READONLY.to_ne_bytes());
        bytes.extend([0; 8]); // event_nr, padding
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend(padded::<128>(name.as_str()));
        bytes.resize(HEADER_SIZE, 0);
        bytes.extend(targets);
        bytes.resize(total, 0);
        Self {
            operation,
            name: name.clone(),
            bytes,
        }
    }

    fn send(mut self, control: &File) -> Result<Answer, DmError> {
        let call = Call {
            opcode: number(self.operation),
            bytes: &mut self.bytes,
        };
        // SAFETY: `control` may be any file: the number's type, size and
        // direction are the device-mapper's, so another driver refuses it.
        // The kernel reads and writes at most `data_size` bytes at the
        // pointer, and `with_targets` sets that to the length of the buffer.
        let sent = unsafe { rustix::ioctl::ioctl(control, call) };
        let Self {
            operation,
            name,
            bytes,
        } = self;
        match sent {
            Ok(()) => Ok(Answer {
                operation,
                name,
                bytes,
            }),
            Err(error) => Err(DmError::Failed {
                operation,
                name,
                source: io::Error::from(error),
            }),
        }
    }
}

/// The size of a buffer made here, all of which are far below 4 GiB.
fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// `text` in a field of `N` bytes, ended by a zero.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let room = field.iter_mut().take(N - 1);
    for (to, from) in room.zip(text.bytes()) {
        *to = from;
    }
    field
}

/// What the kernel left in the buffer.
#[derive(Debug)]
struct Answer {
    operation: Operation,
    name: DmName,
    bytes: Vec<u8>,
}

impl Answer {
    fn device(&self) -> Result<DeviceNumber, DmError> {
        let dev = self.u64_at(offset_of!(Header, dev))?;
        // The kernel's huge_encode_dev.
        let part = |bits: u64| u32::try_from(bits).map_err(|_| self.nonsense("device number"));
        Ok(DeviceNumber {
            major: part((dev >> 8) & 0xfff)?,
            minor: part((dev & 0xff) | ((dev >> 12) & 0xfff_ff00))?,
        })
    }

    fn status(&self) -> Result<DeviceStatus, DmError> {
        let flags = self.u32_at(offset_of!(Header, flags))?;
        if flags & BUFFER_FULL != 0 {
            return Err(self.nonsense("it is larger than a verity device's can be"));
        }
        let start = self.u32_at(offset_of!(Header, data_start))? as usize;
        let count = self.u32_at(offset_of!(Header, target_count))?;
        let mut targets = Vec::new();
        let mut at = start;
        for _ in 0..count {
            targets.push(self.target(at)?);
            // `next` counts from the start of the data in answers, and from
            // the target itself in requests.
            let next = self.u32_at(at + offset_of!(Target, next))? as usize;
            let following = start + next;
            if following <= at {
                return Err(self.nonsense("targets that do not follow each other"));
            }
            at = following;
        }
        Ok(DeviceStatus {
            device: self.device()?,
            open_count: self.u32_at(offset_of!(Header, open_count))?,
            read_only: flags & READONLY != 0,
            active: flags & ACTIVE_PRESENT != 0,
            targets,
        })
    }

    fn target(&self, at: usize) -> Result<TargetStatus, DmError> {
        Ok(TargetStatus {
            start: self.u64_at(at + offset_of!(Target, sector_start))?,
            sectors: self.u64_at(at + offset_of!(Target, length))?,
            kind: self.text(at + offset_of!(Target, target_type))?,
            text: self.text(at + TARGET_SIZE)?,
        })
    }

    fn u32_at(&self, at: usize) -> Result<u32, DmError> {
        self.array_at(at).map(u32::from_ne_bytes)
    }

    fn u64_at(&self, at: usize) -> Result<u64, DmError> {
        self.array_at(at).map(u64::from_ne_bytes)
    }

    fn array_at<const N: usize>(&self, at: usize) -> Result<[u8; N], DmError> {
        self.bytes
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .copied()
            .ok_or_else(|| self.nonsense("it is cut short"))
    }

    fn text(&self, at: usize) -> Result<String, DmError> {
        let bytes = self.bytes.get(at..).unwrap_or_default();
        let end = bytes.iter().position(|&byte| byte == 0);
        end.and_then(|end| bytes.get(..end))
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .ok_or_else(|| self.nonsense("a text without end"))
    }

    fn nonsense(&self, why: &'static str) -> DmError {
        DmError::Answer {
            operation: self.operation,
            name: self.name.clone(),
            why,
        }
    }
}

/// One ioctl, with its buffer of variable size.
struct Call<'a> {
    opcode: Opcode,
    bytes: &'a mut [u8],
}

// SAFETY: the opcode is the device-mapper's, which takes a pointer to a
// `struct dm_ioctl` and answers into the same buffer, hence `IS_MUTATING`;
// nothing is made of the pointer afterwards.
unsafe impl Ioctl for Call<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(
        _: IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{HashArea, HashType, Params};

    fn name() -> DmName {
        DmName::parse("root").expect("good")
    }

    fn table() -> VerityTable {
        let params = Params {
            data_block_size: 4096,
            hash_block_size: 4096,
            salt: vec![0xab; 32],
            hash_type: HashType::Normal,
        };
        let area = HashArea::bare(params, 300, 4096).expect("good");
        let device = |minor| DeviceNumber { major: 254, minor };
        VerityTable::new(
            device(1),
            device(2),
            area,
            partition_layout::RootHash::new([0xcd; 32]),
        )
    }

    #[test]
    fn the_numbers_are_those_of_the_kernel_header() {
        let table = [
            (Operation::Create, 0xc138_fd03),
            (Operation::Remove, 0xc138_fd04),
            (Operation::Resume, 0xc138_fd06),
            (Operation::Load, 0xc138_fd09),
            (Operation::Status, 0xc138_fd0c),
        ];
        for (operation, expected) in table {
            assert_eq!(number(operation), expected, "{operation}");
        }
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    #[test]
    fn a_request_names_its_device_its_size_and_nothing_else() {
        let request = Request::new(Operation::Create, &name());
        let bytes = &request.bytes;
        assert_eq!(
            [u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8)],
            [4, 0, 0]
        );
        assert_eq!(u32_at(bytes, 12) as usize, bytes.len());
        assert_eq!(u32_at(bytes, 16), 312);
        assert_eq!(u32_at(bytes, 28), 1, "read-only");
        assert_eq!(&bytes[48..53], b"root\0");
        let rest = bytes[32..48].iter().chain(&bytes[53..]);
        assert!(rest.chain(&bytes[20..28]).all(|&byte| byte == 0));
    }

    #[test]
    fn a_loaded_table_is_one_verity_target_over_all_sectors() {
        let request = Request::load(&name(), &table());
        let bytes = &request.bytes;
        assert_eq!(u32_at(bytes, 12) as usize, bytes.len());
        assert_eq!(u32_at(bytes, 20), 1, "targets");
        let target = &bytes[312..];
        assert_eq!(target[..8], 0_u64.to_ne_bytes());
        assert_eq!(target[8..16], 2400_u64.to_ne_bytes());
        assert_eq!(&target[24..40], b"verity\0\0\0\0\0\0\0\0\0\0");
        let text = table().to_string();
        assert_eq!(&target[40..40 + text.len()], text.as_bytes());
        assert_eq!(target[40 + text.len()], 0);
        let next = u32_at(target, 20) as usize;
        assert!(next.is_multiple_of(8) && next > 40 + text.len());
    }

    /// An answer as `retrieve_status` of the kernel lays it out.
    fn answer(flags: u32, dev: u64, targets: &[(u64, u64, &str, &str)]) -> Answer {
        let Request {
            operation,
            name,
            mut bytes,
        } = Request::new(Operation::Status, &name());
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(20, &size(targets.len()).to_ne_bytes());
        put(24, &3_i32.to_ne_bytes());
        put(28, &flags.to_ne_bytes());
        put(40, &dev.to_ne_bytes());
        let mut at = 312;
        for (start, sectors, kind, text) in targets {
            let next = (at + 40 + text.len() + 1).next_multiple_of(8);
            put(at, &start.to_ne_bytes());
            put(at + 8, &sectors.to_ne_bytes());
            put(at + 20, &size(next - 312).to_ne_bytes());
            put(at + 24, kind.as_bytes());
            put(at + 40, text.as_bytes());
            at = next;
        }
        Answer {
            operation,
            name,
            bytes,
        }
    }

    #[test]
    fn a_status_is_read_target_by_target() {
        let targets = [
            (0, 2400, "verity", "V"),
            (2400, 8, "linear", ""),
            (2408, 16, "error", "longer text"),
        ];
        // 252:300 as the kernel's huge_encode_dev writes it.
        let status = answer(READONLY | ACTIVE_PRESENT, 0x10_fc2c, &targets).status();
        let status = status.expect("a sound answer");
        assert_eq!(
            status.device,
            DeviceNumber {
                major: 252,
                minor: 300
            }
        );
        assert_eq!(
            (status.open_count, status.read_only, status.active),
            (3, true, true)
        );
        let found: Vec<_> = status
            .targets
            .iter()
            .map(|it| (it.start, it.sectors, it.kind.as_str(), it.text.as_str()))
            .collect();
        assert_eq!(found, targets);
    }

    #[test]
    fn an_answer_that_did_not_fit_is_an_error() {
        let status = answer(BUFFER_FULL, 0, &[]).status();
        assert!(matches!(status, Err(DmError::Answer { .. })), "{status:?}");
    }

    #[test]
    fn an_answer_whose_targets_do_not_move_on_is_an_error() {
        let mut answer = answer(0, 0, &[(0, 8, "verity", "V")]);
        answer.bytes[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
        answer.bytes[332..336].copy_from_slice(&0_u32.to_ne_bytes());
        let status = answer.status();
        assert!(matches!(status, Err(DmError::Answer { .. })), "{status:?}");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            changes in vec((0_usize..500, any::<u8>()), 0..10),
            cut in 0_usize..1000,
        ) {
            let mut answer = answer(0, 0, &[(0, 8, "verity", "V"), (8, 8, "verity", "C")]);
            for (at, byte) in changes {
                answer.bytes[at] = byte;
            }
            answer.bytes.truncate(cut);
            drop(answer.status());
            drop(answer.device());
        }
    }

    #[test]
    fn a_file_that_is_not_the_device_mapper_refuses() {
        let mut dm = KernelDm::open(Path::new("/dev/null")).expect("every Linux has it");
        let error = dm.create(&name());
        assert!(
            matches!(
                &error,
                Err(DmError::Failed {
                    operation: Operation::Create,
                    ..
                })
            ),
            "{error:?}"
        );
        let error = KernelDm::open(Path::new("/dev/mapper/none")).map(drop);
        assert!(matches!(error, Err(DmError::Open { .. })), "{error:?}");
    }
}
