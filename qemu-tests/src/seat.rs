//! An operator's seat at a node: what is typed there, and what came of it, is kept.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use anyhow::{Context, Result};

use crate::bus::Bus;
use crate::call::{Call, Ran};
use crate::deadline::Deadline;
use crate::node::Node;
use crate::smbios::Handed;
use crate::story::Story;

/// What was typed in a story, in its folder: the examples in the documentation are from
/// there.
const TRANSCRIPT: &str = "transcript.txt";

/// A node, and who sits at it.
#[derive(Debug)]
pub struct Seat<'a> {
    node: &'a Node,
    bus: &'a Bus,
    transcript: File,
}

impl<'a> Seat<'a> {
    /// Makes what will be typed possible.
    #[must_use]
    pub fn hand_in(calls: &[Call], handed: Handed) -> Handed {
        calls
            .iter()
            .fold(handed, |handed, call| call.hand_in(handed))
    }

    /// Sits down at `node`, in one of its boots.
    ///
    /// # Errors
    ///
    /// Fails when nothing can be kept.
    pub fn at(story: &Story, node: &'a Node, bus: &'a Bus) -> Result<Self> {
        let path = story.folder().join(TRANSCRIPT);
        let transcript = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self {
            node,
            bus,
            transcript,
        })
    }

    /// Types `call`, which must exit with `code`.
    ///
    /// # Errors
    ///
    /// As [`Call::exits`].
    pub async fn exits(&mut self, call: Call, code: u64, deadline: Deadline) -> Result<Ran> {
        let ran = call.exits(self.node, self.bus, code, deadline).await?;
        let typed = call.line.trim_start_matches("/usr/bin/");
        write!(self.transcript, "$ {typed}\n{}{}", ran.out, ran.err)
            .context("cannot keep the transcript")?;
        Ok(ran)
    }
}
