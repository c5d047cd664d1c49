//! Limits of a network's size. Sizes come from users and files; they are checked before anything is
//! computed or allocated from them, so that nothing overflows.

use super::{Channels, GoogLeNet};
use crate::error::{Error, Result};
use crate::graph::Graph;

/// Maximum channels of a layer: 64 times those of the paper's widest layer.
const MAX_CHANNELS: usize = 1 << 16;

/// Maximum number of parameters: 8 GiB.
const MAX_PARAMETERS: usize = 1 << 31;

impl GoogLeNet {
    /// Minimum height and width of the input in pixels.
    pub const MIN_INPUT: usize = 32;

    /// Maximum height and width of the input in pixels.
    pub const MAX_INPUT: usize = 4096;

    /// Maximum number of classes.
    pub const MAX_CLASSES: usize = 1 << 20;

    /// Maximum batch size.
    pub const MAX_BATCH: usize = 1 << 20;

    /// Checks a batch size.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an empty or too large batch.
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
                return Err(Error::out_of_range(field, format!("from {min} to {max}"), value));
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
                let allowed = format!("from 1 to {MAX_CHANNELS} per layer");
                Err(Error::out_of_range(
                    "GoogLeNet::channels",
                    allowed,
                    format!("{count} (`GoogLeNet::{name}`)"),
                ))
            }
            None => Ok(()),
        }
    }

    /// Checks the number of parameters.
    pub(super) fn check_parameters(&self, graph: &Graph) -> Result<()> {
        let volumes = graph.parameters().map(|(_, tensor, _)| tensor.spec.shape.volume());
        let count = volumes.fold(0, usize::saturating_add);
        if count <= MAX_PARAMETERS {
            return Ok(());
        }
        Err(Error::Config(format!(
            "a network of this `GoogLeNet::width` with {} `GoogLeNet::classes` has {count} parameters; the limit is {MAX_PARAMETERS}",
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

    /// None of these may take memory or time, because they come from users or files.
    #[test]
    fn errors_name_sizes_out_of_range() {
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
            (lacking, 1, "a list of 8"),
            (hollow, 1, "channels.blocks[3].reduce5"),
        ] {
            let error = network.build(batch).expect_err(named);
            assert!(matches!(error, Error::Config(_) | Error::OutOfRange { .. }), "{error:?}");
            assert!(error.to_string().contains(named), "{error}");
        }
        GoogLeNet::paper().width(0.25).classes(1 << 20).build(1).expect("a million classes");
    }
}
