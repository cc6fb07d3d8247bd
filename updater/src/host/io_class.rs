//! A thread's place in the disk's queue (ioprio_set(2)).
#![expect(
    unsafe_code,
    reason = "neither the standard library nor rustix has a wrapper for ioprio_set"
)]

use std::io;

use crate::ports::DiskQueue;

/// `IOPRIO_WHO_PROCESS` of linux/ioprio.h; with 0 for whom, it is the calling thread.
const THIS_THREAD: [libc::c_long; 2] = [1, 0];
/// `IOPRIO_CLASS_IDLE`. BFQ and mq-deadline let it wait, and not for ever; with no
/// scheduler it changes nothing, and the rests are all there is.
const IDLE: libc::c_long = 3;
/// `IOPRIO_CLASS_SHIFT`.
const SHIFT: u32 = 13;

/// Takes the place for this thread, and for those that it starts from now on.
pub(super) fn stand(place: DiskQueue) -> io::Result<()> {
    let priority = match place {
        // As the unit has it: the first thread never goes anywhere else.
        DiskQueue::Among => priority_of(libc::c_long::from(std::process::id()))?,
        DiskQueue::Last => IDLE << SHIFT,
    };
    let [kind, whom] = THIS_THREAD;
    // SAFETY: the call takes three numbers and no memory.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, kind, whom, priority) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn priority_of(thread: libc::c_long) -> io::Result<libc::c_long> {
    let [kind, _] = THIS_THREAD;
    // SAFETY: the call takes two numbers and no memory.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, kind, thread) };
    if priority < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(priority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_class() -> libc::c_long {
        priority_of(0).unwrap() >> SHIFT
    }

    #[test]
    fn a_thread_stands_behind_everybody_and_among_them_again() {
        stand(DiskQueue::Last).unwrap();
        assert_eq!(own_class(), IDLE);
        let of_child = std::thread::spawn(own_class).join().unwrap();
        assert_eq!(of_child, IDLE);
        stand(DiskQueue::Among).unwrap();
        assert_ne!(own_class(), IDLE);
    }
}
