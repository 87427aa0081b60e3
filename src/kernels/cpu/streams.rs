//! The order in which keys are read, so that memory is read in several places at once.

use std::ops::Range;

use super::products::TILE;

/// The number of places at which a contiguous range of memory is read at once.
pub(super) const STREAMS: usize = 4;

/// The keys of a tile, in the order in which they are read.
///
/// The range is split into `STREAMS` parts, and a tile takes one key of each part in turn. The keys that do not fill a
/// tile come last, in order. The processor prefetches only a short distance ahead of each place that is read, so
/// reading at a single place does not use the full memory bandwidth.
#[inline(always)]
pub(super) fn interleaved<const STREAMS: usize>(keys: Range<usize>, tile: usize) -> impl Iterator<Item = usize> {
    let tiles = keys.len() / TILE;
    let rest = if tile < tiles { 0..0 } else { keys.start + tiles * TILE..keys.end };
    let turns = if tile < tiles { TILE / STREAMS } else { 0 };
    let first = keys.start + tile * turns;
    (0..turns * STREAMS).map(move |at| first + at % STREAMS * (tiles * turns) + at / STREAMS).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::{TILE, interleaved};

    #[test]
    fn streams_pass_by_every_key_once() {
        streams_of_pass_by_every_key_once::<4>();
        streams_of_pass_by_every_key_once::<8>();
        let tile = interleaved::<4>(0..1000, 1).collect::<Vec<_>>();
        assert_eq!(tile, [4, 252, 500, 748, 5, 253, 501, 749, 6, 254, 502, 750, 7, 255, 503, 751]);
    }

    fn streams_of_pass_by_every_key_once<const STREAMS: usize>() {
        for count in [1usize, 15, 16, 17, 63, 64, 111, 1000] {
            let keys = 7..7 + count;
            let tiles =
                (0..count.div_ceil(TILE)).map(|tile| interleaved::<STREAMS>(keys.clone(), tile).collect::<Vec<_>>());
            let tiles = tiles.collect::<Vec<_>>();
            assert!(tiles[..count / TILE].iter().all(|tile| tile.len() == TILE));
            let mut all = tiles.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(keys));
        }
    }
}
