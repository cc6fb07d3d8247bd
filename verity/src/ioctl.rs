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
