//! Windows of images as columns of a matrix (im2col), a panel at a time.

use super::super::operands::Input;

/// Which source pixel each tap of a window reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// Height and width of the source.
    pub source: [usize; 2],
    /// Height and width of the target, whose pixels are the columns.
    pub target: [usize; 2],
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step of the convolution.
    pub stride: [usize; 2],
    /// Zero padding of the convolution.
    pub padding: [usize; 2],
    /// Whether the source is the convolution's output, as for the gradient of its input.
    pub transposed: bool,
}

/// Columns of a panel: pixels `first` to `last` of `images`; several images only if all their
/// pixels belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Panel {
    pub images: std::ops::Range<usize>,
    pub pixels: std::ops::Range<usize>,
}

impl Panel {
    /// Columns.
    pub fn width(&self) -> usize {
        self.images.len() * self.pixels.len()
    }
}

/// Cuts `batch` images of `pixels` into panels of about `width` columns, in order.
pub(super) fn panels(batch: usize, pixels: usize, width: usize) -> Vec<Panel> {
    if pixels >= width {
        let parts = pixels.div_ceil(width);
        let length = pixels.div_ceil(parts).next_multiple_of(16);
        let of_image = |image| {
            (0..pixels).step_by(length.max(1)).map(move |first| Panel {
                images: image..image + 1,
                pixels: first..pixels.min(first + length),
            })
        };
        return (0..batch).flat_map(of_image).collect();
    }
    let group = (width / pixels.max(1)).max(1);
    let groups = (0..batch).step_by(group);
    groups.map(|first| Panel { images: first..batch.min(first + group), pixels: 0..pixels }).collect()
}

impl Windows {
    /// Rows of the unfolded matrix per source channel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether the unfolded matrix is the source itself.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// Source position of a target position and a tap along dimension `d`; `None` in the padding.
    fn at(&self, d: usize, target: usize, tap: usize) -> Option<usize> {
        let position = if self.transposed {
            let shifted = (target + self.padding[d]).checked_sub(tap)?;
            if !shifted.is_multiple_of(self.stride[d]) {
                return None;
            }
            shifted / self.stride[d]
        } else {
            (target * self.stride[d] + tap).checked_sub(self.padding[d])?
        };
        (position < self.source[d]).then_some(position)
    }

    /// Fills rows `rows` (channel, tap row, tap column) of the unfolded matrix for the columns of a
    /// panel; `to` has one row after another.
    pub fn unfold(&self, x: Input<'_>, rows: std::ops::Range<usize>, panel: &Panel, to: &mut [f32]) {
        let (taps, plane, width) = (self.taps(), self.source[0] * self.source[1], panel.width());
        for (row, to) in rows.zip(to.chunks_exact_mut(width)) {
            let (channel, tap) = (row / taps, row % taps);
            let tap = [tap / self.kernel[1], tap % self.kernel[1]];
            let parts = to.chunks_exact_mut(panel.pixels.len());
            for (image, to) in panel.images.clone().zip(parts) {
                let source = &x.item(image)[channel * plane..][..plane];
                self.unfold_plane(source, tap, panel.pixels.clone(), to);
            }
        }
    }

    /// The values that one tap reads from a plane for a range of target pixels.
    fn unfold_plane(&self, source: &[f32], tap: [usize; 2], pixels: std::ops::Range<usize>, to: &mut [f32]) {
        let [_, target_width] = self.target;
        if self.is_pointwise() {
            return to.copy_from_slice(&source[pixels]);
        }
        let (mut pixel, mut rest) = (pixels.start, to);
        while !rest.is_empty() {
            let (y, x) = (pixel / target_width, pixel % target_width);
            let length = (target_width - x).min(rest.len());
            let (segment, after) = rest.split_at_mut(length);
            match self.at(0, y, tap[0]) {
                Some(row) => {
                    let source = &source[row * self.source[1]..][..self.source[1]];
                    self.unfold_row(source, tap[1], x, segment);
                }
                None => segment.fill(0.0),
            }
            (pixel, rest) = (pixel + length, after);
        }
    }

    /// The values that a tap column reads from a source row, for target columns from `first` on.
    fn unfold_row(&self, source: &[f32], tap: usize, first: usize, to: &mut [f32]) {
        if self.stride[1] != 1 {
            return self.unfold_steps(source, tap, first, to);
        }
        // The source column of target column x is x + tap - padding, or its mirror image.
        let (back, ahead) = if self.transposed { (tap, self.padding[1]) } else { (self.padding[1], tap) };
        let before = back.saturating_sub(first + ahead).min(to.len());
        let (zeros, rest) = to.split_at_mut(before);
        zeros.fill(0.0);
        let from = (first + before + ahead).saturating_sub(back).min(source.len());
        let inside = rest.len().min(source.len() - from);
        let (copied, zeros) = rest.split_at_mut(inside);
        copied.copy_from_slice(&source[from..from + inside]);
        zeros.fill(0.0);
    }

    /// As [`Windows::unfold_row`], for a stride above 1.
    fn unfold_steps(&self, source: &[f32], tap: usize, first: usize, to: &mut [f32]) {
        to.fill(0.0);
        // The first target column that reads a value, and the one that it reads.
        let found = (first..first + to.len()).find_map(|x| Some((x - first, self.at(1, x, tap)?)));
        let Some((start, column)) = found else { return };
        // From there on values and target columns advance by equal steps.
        let stride = self.stride[1];
        if self.transposed {
            let steps = to[start..].iter_mut().step_by(stride);
            steps.zip(&source[column..]).for_each(|(to, from)| *to = *from);
        } else {
            let steps = source[column..].iter().step_by(stride);
            to[start..].iter_mut().zip(steps).for_each(|(to, from)| *to = *from);
        }
    }
}
