//! How large a network may be. Sizes come from people and from files, and everything that is
//! computed from them must neither overflow nor take memory before anybody has noticed that they
//! are wrong.

use super::{Channels, GoogLeNet};
use crate::error::{Error, Result};
use crate::graph::Graph;

/// Channels that a layer may have: 64 times those of the widest layer of the paper.
const MAX_CHANNELS: usize = 1 << 16;

/// Parameters that a network may have: 8 GiB of them.
const MAX_PARAMETERS: usize = 1 << 31;

impl GoogLeNet {
    /// The smallest input in pixels.
    pub const MIN_INPUT: usize = 32;

    /// The largest input in pixels.
    pub const MAX_INPUT: usize = 4096;

    /// The most classes.
    pub const MAX_CLASSES: usize = 1 << 20;

    /// The most images of a batch.
    pub const MAX_BATCH: usize = 1 << 20;

    /// Checks a batch size.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a batch of none or too many.
    pub fn check_batch(batch: usize) -> Result<()> {
        if (1..=Self::MAX_BATCH).contains(&batch) {
            return Ok(());
        }
        Err(Error::out_of_range("LoaderOptions::batch", format!("from 1 to {}", Self::MAX_BATCH), batch))
    }

    /// Checks input, classes and channels.
    pub(super) fn check_sizes(&self) -> Result<()> {
        for (field, value, min, max) in [
            ("GoogLeNet::input", self.input, Self::MIN_INPUT, Self::MAX_INPUT),
            ("GoogLeNet::classes", self.classes, 2, Self::MAX_CLASSES),
        ] {
            if !(min..=max).contains(&value) {
                return Err(Error::out_of_range(field, format!("at least {min} and at most {max}"), value));
            }
        }
        let (found, expected) = (self.channels.blocks.len(), Channels::full().blocks.len());
        if found != expected {
            return Err(Error::out_of_range(
                "GoogLeNet::channels.blocks",
                format!("a list of {expected}"),
                format!("a list of {found}"),
            ));
        }
        match self.channels.named().into_iter().find(|(_, count)| !(1..=MAX_CHANNELS).contains(count)) {
            Some((name, count)) => {
                let allowed = format!("from 1 to {MAX_CHANNELS} a layer");
                Err(Error::out_of_range(
                    "GoogLeNet::channels",
                    allowed,
                    format!("{count} (`GoogLeNet::{name}`)"),
                ))
            }
            None => Ok(()),
        }
    }

    /// Checks how many parameters the network has.
    pub(super) fn check_parameters(&self, graph: &Graph) -> Result<()> {
        let volumes = graph.parameters().map(|(_, tensor, _)| tensor.spec.shape.volume());
        let count = volumes.fold(0, usize::saturating_add);
        if count <= MAX_PARAMETERS {
            return Ok(());
        }
        Err(Error::Config(format!(
            "a network of this `GoogLeNet::width` with {} `GoogLeNet::classes` has {count} parameters, and at most {MAX_PARAMETERS} are allowed",
            self.classes
        )))
    }
}

impl Channels {
    /// All counts with the names of their fields, for messages.
    pub(crate) fn named(&self) -> Vec<(String, usize)> {
        let stem = self.stem.iter().enumerate().map(|(i, count)| (format!("channels.stem[{i}]"), *count));
        let blocks = self.blocks.iter().enumerate().flat_map(|(i, b)| {
            [
                ("conv1", b.conv1),
                ("reduce3", b.reduce3),
                ("conv3", b.conv3),
                ("reduce5", b.reduce5),
                ("conv5", b.conv5),
                ("project", b.project),
            ]
            .map(|(name, count)| (format!("channels.blocks[{i}].{name}"), count))
        });
        let aux = self.aux.iter().enumerate().map(|(i, count)| (format!("channels.aux[{i}]"), *count));
        stem.chain(blocks).chain(aux).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None of these may take memory or time: they come from a person or a file.
    #[test]
    fn sizes_out_of_range_are_refused_by_name() {
        let wide = |width: f64| GoogLeNet::paper().width(width);
        let mut lacking = GoogLeNet::paper();
        lacking.channels.blocks.pop();
        let mut hollow = GoogLeNet::paper();
        hollow.channels.blocks[3].reduce5 = 0;
        for (network, batch, named) in [
            (GoogLeNet::paper().classes(100_000_000), 1, "100000000"),
            (GoogLeNet::paper().classes(1), 1, "GoogLeNet::classes"),
            (GoogLeNet::paper().input(1_000_000), 1, "1000000"),
            (GoogLeNet::paper().input(0), 1, "GoogLeNet::input"),
            (wide(1e9), 1, "channels.stem[0]"),
            (wide(f64::INFINITY), 1, "channels.stem[0]"),
            (wide(60.0), 1, "GoogLeNet::width"),
            (GoogLeNet::paper().classes(1 << 20), 1, "parameters"),
            (GoogLeNet::paper(), u32::MAX as usize, "4294967295"),
            (GoogLeNet::paper(), 0, "LoaderOptions::batch"),
            (lacking, 1, "8 blocks"),
            (hollow, 1, "channels.blocks[3].reduce5"),
        ] {
            let error = network.build(batch).expect_err(named);
            assert!(matches!(error, Error::Config(_) | Error::OutOfRange { .. }), "{error:?}");
            assert!(error.to_string().contains(named), "{error}");
        }
        GoogLeNet::paper().width(0.25).classes(1 << 20).build(1).expect("a million classes");
    }
}
