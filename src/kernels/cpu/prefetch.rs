/// Asks for a row of memory ahead of its use: a row fetched when it is used costs about 100 ns.
#[inline(always)]
pub(crate) fn prefetch<T>(row: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let start = row.as_ptr().cast::<i8>();
        for offset in (0..size_of_val(row)).step_by(LINE) {
            // SAFETY: `offset` is below the size of `row` in bytes, so that the pointer stays inside of it. A prefetch
            // reads nothing and faults at no address, and every x86_64 machine has the instruction (SSE).
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

#[cfg(test)]
mod tests {
    use super::prefetch;

    #[test]
    fn rows_of_all_lengths_are_left_as_they_are() {
        for length in [0, 1, 15, 16, 17, 63, 64, 65, 1000] {
            let row = (0..length).map(|at| at as f32).collect::<Vec<_>>();
            prefetch(&row);
            prefetch(&row[length / 2..]);
            assert!(row.iter().enumerate().all(|(at, &number)| number == at as f32));
        }
    }
}
