//! Greedy packing of memory blocks with limited lifetimes.

/// A block of memory with its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Size in bytes.
    pub bytes: u64,
    /// First step of the lifetime.
    pub first: usize,
    /// Last step of the lifetime, inclusive.
    pub last: usize,
}

/// Placement of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Index of the chunk, one buffer each.
    pub chunk: usize,
    /// Offset in the chunk, in bytes.
    pub offset: u64,
}

/// Places blocks so that those with overlapping lifetimes do not overlap in memory. Offsets are
/// multiples of `alignment`; chunks are up to `limit` bytes. Returns the placements and the sizes
/// of the chunks.
///
/// Greedy by size, largest first, each in the lowest gap that fits: on networks within a few
/// percent of the peak of live bytes (Pisarchyk and Lee, "Efficient memory management for deep
/// neural net inference", 2020, section 5).
pub fn pack(blocks: &[Block], alignment: u64, limit: u64) -> (Vec<Placement>, Vec<u64>) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first));
    let mut placements = vec![Placement::default(); blocks.len()];
    let mut chunks: Vec<(u64, Vec<usize>)> = Vec::new();
    for index in order {
        let bytes = blocks[index].bytes.next_multiple_of(alignment);
        let found = chunks.iter().enumerate().find_map(|(chunk, (_, placed))| {
            let offset = lowest_gap(blocks, &placements, placed, blocks[index], bytes, alignment);
            (offset + bytes <= limit.max(bytes)).then_some(Placement { chunk, offset })
        });
        let placement = found.unwrap_or_else(|| {
            chunks.push((0, Vec::new()));
            Placement { chunk: chunks.len() - 1, offset: 0 }
        });
        placements[index] = placement;
        let (size, placed) = &mut chunks[placement.chunk];
        *size = (*size).max(placement.offset + bytes);
        placed.push(index);
    }
    (placements, chunks.into_iter().map(|(size, _)| size).collect())
}

fn lowest_gap(
    blocks: &[Block],
    placements: &[Placement],
    placed: &[usize],
    block: Block,
    bytes: u64,
    alignment: u64,
) -> u64 {
    let at_the_same_time = |i: &&usize| blocks[**i].first <= block.last && block.first <= blocks[**i].last;
    let mut taken: Vec<(u64, u64)> = placed
        .iter()
        .filter(at_the_same_time)
        .map(|&i| (placements[i].offset, placements[i].offset + blocks[i].bytes.next_multiple_of(alignment)))
        .collect();
    taken.sort_unstable();
    let mut offset = 0;
    for (start, end) in taken {
        if offset + bytes <= start {
            break;
        }
        offset = offset.max(end);
    }
    offset
}

/// Peak of live bytes, a lower bound for any placement.
pub fn peak(blocks: &[Block], alignment: u64) -> u64 {
    let mut events: Vec<(usize, i64)> = Vec::new();
    for block in blocks {
        let bytes = i64::try_from(block.bytes.next_multiple_of(alignment)).unwrap_or(i64::MAX);
        events.push((block.first, bytes));
        events.push((block.last.saturating_add(1), -bytes));
    }
    events.sort_unstable();
    let mut live = 0;
    let mut peak = 0;
    for (_, change) in events {
        live += change;
        peak = peak.max(live);
    }
    u64::try_from(peak).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn live_blocks_never_overlap(list in prop::collection::vec((1u64..5000, 0usize..40, 0usize..20), 1..60)) {
            let blocks: Vec<Block> =
                list.iter().map(|&(bytes, first, length)| Block { bytes, first, last: first + length }).collect();
            let (places, chunks) = pack(&blocks, 256, 20_000);
            for (i, (a, x)) in blocks.iter().zip(&places).enumerate() {
                prop_assert!(x.offset % 256 == 0 && x.offset + a.bytes <= chunks[x.chunk]);
                for (b, y) in blocks.iter().zip(&places).skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last && x.chunk == y.chunk;
                    let apart = x.offset + a.bytes <= y.offset || y.offset + b.bytes <= x.offset;
                    prop_assert!(!together || apart, "{a:?} at {x:?} overlaps {b:?} at {y:?}");
                }
            }
            prop_assert!(chunks.iter().all(|&size| size <= 20_000));
            prop_assert!(chunks.iter().sum::<u64>() >= peak(&blocks, 256));
        }
    }

    #[test]
    fn disjoint_lifetimes_share_memory() {
        let blocks = [
            Block { bytes: 1000, first: 0, last: 1 },
            Block { bytes: 900, first: 2, last: 3 },
            Block { bytes: 100, first: 0, last: 3 },
        ];
        let (_, chunks) = pack(&blocks, 4, 1 << 20);
        assert_eq!(chunks, [1100]);
        assert_eq!(peak(&blocks, 4), 1100);
    }
}
