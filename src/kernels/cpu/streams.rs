//! Reading in several places at once.

use std::ops::Range;

use super::products::TILE;

/// In so many places at once memory is read that is read as a whole.
pub(super) const STREAMS: usize = 4;

/// A tile of keys that are read in several places at once, a key of each in turn; what does not fill a tile comes last,
/// in order. The machine itself looks ahead of the places that are read, but of each only so far: one place does not fill
/// the memory's lines.
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
