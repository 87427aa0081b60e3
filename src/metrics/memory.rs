use std::collections::VecDeque;

use super::Record;

/// The newest records, up to a limit.
#[derive(Debug)]
pub(super) struct Memory {
    records: VecDeque<Record>,
    capacity: usize,
    left_out: u64,
}

impl Memory {
    pub fn new(capacity: usize) -> Self {
        Self { records: VecDeque::new(), capacity, left_out: 0 }
    }

    pub fn push(&mut self, record: Record) {
        if self.records.len() == self.capacity {
            self.records.pop_front();
            self.left_out += 1;
        }
        self.records.push_back(record);
    }

    pub fn records(&self) -> Vec<Record> {
        self.records.iter().cloned().collect()
    }

    /// The number of records that were dropped to make room for newer ones.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}
