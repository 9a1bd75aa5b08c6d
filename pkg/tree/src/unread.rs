//! Maps that are still text.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::Map;
use crate::map::Members;

/// Reads the text of an object; objects in it may be left unread to so many levels.
pub type Read = fn(&Bytes, u8) -> Map;

/// The text of an object, and its members once somebody has asked for one.
pub(crate) struct Unread {
    text: Bytes,
    levels: u8,
    read: Read,
    members: OnceLock<Members>,
}

impl Unread {
    pub(crate) fn new(text: Bytes, levels: u8, read: Read) -> Self {
        Self { text, levels, read, members: OnceLock::new() }
    }

    pub(crate) fn text(&self) -> &Bytes {
        &self.text
    }

    pub(crate) fn members(&self) -> &Members {
        self.members.get_or_init(|| (self.read)(&self.text, self.levels).into_members())
    }

    /// The members, for who is about to change them.
    pub(crate) fn take(&mut self) -> Members {
        self.members();
        self.members.take().unwrap_or_default()
    }
}
