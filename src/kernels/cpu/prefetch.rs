/// Rows of memory that will be needed soon, all of the same length.
#[derive(Debug)]
pub(crate) struct Ahead<'a, T> {
    rows: &'a [&'a [T]],
    abreast: usize,
}

impl<'a, T> Ahead<'a, T> {
    /// Rows that are prefetched one after the other. The processor itself already prefetches what is read in order.
    pub fn in_order(rows: &'a [&'a [T]]) -> Self {
        Self { rows, abreast: 1 }
    }

    /// Rows at arbitrary addresses. The first cache lines of several rows are prefetched one after the other, so that
    /// the processor waits for them at the same time.
    pub fn scattered(rows: &'a [&'a [T]]) -> Self {
        Self { rows, abreast: 8 }
    }

    /// No rows.
    pub fn nothing() -> Self {
        Self { rows: &[], abreast: 1 }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Prefetch requests for the cache lines of rows that are needed later.
///
/// The requests are sent one by one, between the steps of the current work. A line that is only fetched when it is used
/// costs about 100 ns. A processor has few places for lines in flight (24 on AMD's Zen 3), so a burst of requests would
/// stall the current work as well.
pub(crate) struct Requests<'a, T> {
    ahead: Ahead<'a, T>,
    /// The row of the next request.
    at: usize,
    /// The line of the next request, in bytes from the start of the row.
    offset: usize,
}

impl<'a, T> Requests<'a, T> {
    #[inline(always)]
    pub fn new(ahead: Ahead<'a, T>) -> Self {
        Self { ahead, at: 0, offset: 0 }
    }

    /// Sends one request for each cache line in this number of bytes.
    #[inline(always)]
    pub fn send(&mut self, bytes: usize) {
        for _ in 0..bytes.div_ceil(LINE) {
            self.send_one();
        }
    }

    /// Sends all remaining requests.
    #[inline(always)]
    pub fn send_all(&mut self) {
        while self.send_one() {}
    }

    #[inline(always)]
    fn send_one(&mut self) -> bool {
        let Some(row) = self.ahead.rows.get(self.at) else { return false };
        prefetch(row.as_ptr().wrapping_byte_add(self.offset));
        self.at += 1;
        let abreast = self.ahead.abreast.min(self.ahead.rows.len());
        if self.at == abreast {
            self.at = 0;
            self.offset += LINE;
            if self.offset >= size_of_val(*row) {
                self.offset = 0;
                self.ahead.rows = &self.ahead.rows[abreast..];
            }
        }
        true
    }
}

#[inline(always)]
fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: A prefetch returns no data and does not fault at any address. Every x86_64 processor has the
        // instruction (SSE).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::{Ahead, LINE, Requests};

    #[test]
    fn every_line_is_asked_for_once_and_nothing_is_changed() {
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 1000] {
            let rows = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(|row| vec![row as f32; length]);
            let lists = rows.iter().map(Vec::as_slice).collect::<Vec<_>>();
            let lines = (length * size_of::<f32>()).div_ceil(LINE).max(1);
            for (ahead, abreast) in [(Ahead::in_order(&lists), 1), (Ahead::scattered(&lists), 8)] {
                let mut requests = Requests::new(ahead);
                let mut wanted = Vec::new();
                for first in (0..rows.len()).step_by(abreast) {
                    let some = first..(first + abreast).min(rows.len());
                    wanted.extend((0..lines).flat_map(|line| some.clone().map(move |row| (row, line * LINE))));
                }
                for (row, offset) in wanted {
                    let place = rows.len() - requests.ahead.rows.len() + requests.at;
                    assert_eq!((place, requests.offset), (row, offset));
                    requests.send(LINE - 1);
                }
                assert!(requests.ahead.rows.is_empty());
                requests.send(5 * LINE);
                assert!(!requests.send_one());
            }
            let mut requests = Requests::new(Ahead::scattered(&lists));
            requests.send(3 * LINE);
            requests.send_all();
            assert!(requests.ahead.rows.is_empty());
            assert!(rows.iter().enumerate().all(|(row, numbers)| numbers.iter().all(|&number| number == row as f32)));
        }
    }
}
