/// Lines of memory that will be needed soon, asked for one by one among the work that comes before: a line that is
/// fetched when it is used costs about 100 ns, and machines have so few places for lines on their way (24 on AMD's Zen 3)
/// that many requests at once keep the work waiting as well.
pub(crate) struct Requests<'a, T> {
    rows: std::slice::Iter<'a, &'a [T]>,
    next: *const T,
    end: *const T,
}

/// Bytes that come from memory together.
const LINE: usize = 64;

impl<'a, T> Requests<'a, T> {
    #[inline(always)]
    pub fn new(rows: &'a [&'a [T]]) -> Self {
        Self { rows: rows.iter(), next: std::ptr::null(), end: std::ptr::null() }
    }

    /// As many as there are lines in so many bytes.
    #[inline(always)]
    pub fn send(&mut self, bytes: usize) {
        for _ in 0..bytes.div_ceil(LINE) {
            self.send_one();
        }
    }

    #[inline(always)]
    fn send_one(&mut self) {
        if self.next >= self.end {
            let Some(row) = self.rows.next() else { return };
            let range = row.as_ptr_range();
            (self.next, self.end) = (range.start, range.end);
        }

        prefetch(self.next);
        self.next = self.next.wrapping_byte_add(LINE);
    }

    /// Those that are left.
    #[inline(always)]
    pub fn send_all(&mut self) {
        while self.next < self.end || !self.rows.as_slice().is_empty() {
            self.send_one();
        }
    }
}

#[inline(always)]
fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: A prefetch reads nothing and faults at no address, and every x86_64 machine has the instruction (SSE).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast::<i8>()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::{LINE, Requests};

    #[test]
    fn every_line_of_every_row_is_asked_for_once_and_nothing_is_changed() {
        let rows =
            [0, 1, 15, 16, 17, 63, 64, 65, 1000].map(|length| (0..length).map(|at| at as f32).collect::<Vec<_>>());
        let lists = rows.iter().map(Vec::as_slice).filter(|row| !row.is_empty()).collect::<Vec<_>>();
        let mut requests = Requests::new(&lists);
        for row in &lists {
            for line in 0..size_of_val(*row).div_ceil(LINE) {
                requests.send(LINE - 1);
                assert_eq!(requests.next, row.as_ptr().wrapping_byte_add((line + 1) * LINE));
            }
            assert_eq!(requests.end, row.as_ptr_range().end);
        }
        requests.send(5 * LINE);
        assert!(requests.rows.as_slice().is_empty());
        let rows_and_none = rows.iter().map(Vec::as_slice).collect::<Vec<_>>();
        let mut requests = Requests::new(&rows_and_none);
        requests.send(3 * LINE);
        requests.send_all();
        assert!(requests.rows.as_slice().is_empty() && requests.next >= requests.end);
        assert!(rows.iter().flat_map(|row| row.iter().enumerate()).all(|(at, &number)| number == at as f32));
    }
}
