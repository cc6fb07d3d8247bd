//! The blocks that the booted slot has: read one stretch ahead, by a thread of its own,
//! while the one before is hashed and written. A disk takes longer to read than a core to hash.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use verity::AlignedBuffer;

use super::booted::Booted;
use super::survey::{Class, Search};
use super::target::{Target, chunks};
use super::{CHUNK, Source, block_size, memory};
use crate::ports::{Pace, Slots};
use crate::stage_error::StageError;

/// Blocks that are neighbours in both images.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    /// The first one's number in the release, and in the booted image.
    first: u64,
    place: u64,
    blocks: u64,
}

/// A stretch, and room for its bytes.
struct Reading {
    stretch: Stretch,
    buffer: AlignedBuffer,
    read: io::Result<()>,
}

impl Stretch {
    fn bytes(self) -> usize {
        memory(self.blocks).saturating_mul(block_size())
    }
}

impl Reading {
    fn read_from<D: Slots>(&mut self, booted: &Booted<'_, D>) {
        let bytes = self.buffer.get_mut(..self.stretch.bytes());
        self.read = booted.read_blocks(self.stretch.place, bytes.unwrap_or_default());
    }
}

/// Copies what the booted slot holds. What has rotten there is missing after all.
pub(super) fn copy<D: Slots + Pace>(
    target: &mut Target<'_, D>,
    booted: &Booted<'_, D>,
    search: &mut Search<'_, D>,
) -> Result<(), StageError> {
    let copied = thread::scope(|scope| {
        let (orders, to_do) = channel();
        let (done, readings) = channel();
        let reader = thread::Builder::new().name("slot reader".to_owned());
        match reader.spawn_scoped(scope, || read_all(booted, to_do, done)) {
            Ok(_) => copy_what_is_read(target, booted, search, &orders, &readings),
            Err(error) => {
                tracing::debug!(%error, "nobody reads ahead");
                copy_alone(target, booted, search)
            }
        }
        // The thread ends when nobody orders any more.
    });
    while let Some(run) = target.survey.next_run(Class::Booted, 0) {
        target.survey.set_all(run, Class::Missing);
    }
    copied
}

fn read_all<D: Slots>(booted: &Booted<'_, D>, to_do: Receiver<Reading>, done: Sender<Reading>) {
    for mut reading in to_do {
        reading.read_from(booted);
        if done.send(reading).is_err() {
            return;
        }
    }
}

fn copy_alone<D: Slots + Pace>(
    target: &mut Target<'_, D>,
    booted: &Booted<'_, D>,
    search: &mut Search<'_, D>,
) -> Result<(), StageError> {
    let mut list = List::default();
    let mut buffer = AlignedBuffer::new(CHUNK);
    while let Some(stretch) = list.next(target, search)? {
        let mut reading = Reading {
            stretch,
            buffer,
            read: Ok(()),
        };
        reading.read_from(booted);
        take(target, booted, &reading)?;
        buffer = reading.buffer;
    }
    Ok(())
}

fn copy_what_is_read<D: Slots + Pace>(
    target: &mut Target<'_, D>,
    booted: &Booted<'_, D>,
    search: &mut Search<'_, D>,
    orders: &Sender<Reading>,
    readings: &Receiver<Reading>,
) -> Result<(), StageError> {
    let mut list = List::default();
    let mut buffers: Vec<_> = (0..2).map(|_| AlignedBuffer::new(CHUNK)).collect();
    let mut at_work = 0_u32;
    loop {
        while let Some(buffer) = buffers.pop() {
            let Some(stretch) = list.next(target, search)? else {
                break;
            };
            let read = Ok(());
            let reading = Reading {
                stretch,
                buffer,
                read,
            };
            // It lives until nobody orders any more.
            if orders.send(reading).is_ok() {
                at_work = at_work.saturating_add(1);
            }
        }
        let Some(reading) = (at_work > 0).then(|| readings.recv().ok()).flatten() else {
            return Ok(());
        };
        at_work = at_work.saturating_sub(1);
        take(target, booted, &reading)?;
        buffers.push(reading.buffer);
    }
}

fn take<D: Slots + Pace>(
    target: &mut Target<'_, D>,
    booted: &Booted<'_, D>,
    reading: &Reading,
) -> Result<(), StageError> {
    let Stretch {
        first,
        place,
        blocks,
    } = reading.stretch;
    if reading.read.is_ok() {
        let bytes = reading.buffer.get(..reading.stretch.bytes());
        target.offer(first, bytes.unwrap_or_default(), Source::Booted)?;
        return Ok(());
    }
    // Somewhere in there is a sector that cannot be read; the others can.
    let mut bytes = vec![0; block_size()];
    for at in 0..blocks {
        let read = booted.read_blocks(place.saturating_add(at), &mut bytes);
        if read.is_ok() {
            target.offer(first.saturating_add(at), &bytes, Source::Booted)?;
        }
    }
    Ok(())
}

/// What is still to be copied.
#[derive(Debug, Default)]
struct List {
    /// The rest of a chunk of blocks that the booted slot has.
    chunk: Range<u64>,
    /// The rest of the run that the chunk is of.
    run: Range<u64>,
}

impl List {
    /// Returns the next stretch.
    fn next<D: Slots + Pace>(
        &mut self,
        target: &Target<'_, D>,
        search: &mut Search<'_, D>,
    ) -> Result<Option<Stretch>, StageError> {
        loop {
            if self.chunk.is_empty() {
                if self.run.is_empty() {
                    let Some(run) = target.survey.next_run(Class::Booted, self.run.end) else {
                        return Ok(None);
                    };
                    self.run = run;
                }
                self.chunk = chunks(&self.run).next().unwrap_or_default();
                self.run.start = self.chunk.end;
            }
            let first = self.chunk.start;
            self.chunk.start = first.saturating_add(1);
            let Some(place) = search.place_of(&target.digest_of(first)?) else {
                continue;
            };
            while !self.chunk.is_empty() && search.follows(&target.digest_of(self.chunk.start)?) {
                self.chunk.start = self.chunk.start.saturating_add(1);
            }
            let blocks = self.chunk.start - first;
            return Ok(Some(Stretch {
                first,
                place,
                blocks,
            }));
        }
    }
}
