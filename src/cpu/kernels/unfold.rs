//! Windows of images as columns of a matrix (im2col), a panel at a time.

use std::ops::Range;

use super::super::operands::Input;
use super::super::product::with_scratch;

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
    pub images: Range<usize>,
    pub pixels: Range<usize>,
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

/// Copies rows of `width` elements, which are `stride` apart in `from` and adjacent in `to`.
fn copy_rows(from: &[f32], stride: usize, to: &mut [f32], width: usize) {
    /// Of a width that is known when compiled: a row is one or two moves instead of a call.
    fn short<const WIDTH: usize>(from: &[f32], stride: usize, to: &mut [f32]) {
        let (to, _) = to.as_chunks_mut::<WIDTH>();
        for (to, from) in to.iter_mut().zip(from.chunks(stride)) {
            if let Some(from) = from.first_chunk::<WIDTH>() {
                *to = *from;
            }
        }
    }
    match width {
        1 => short::<1>(from, stride, to),
        2 => short::<2>(from, stride, to),
        3 => short::<3>(from, stride, to),
        4 => short::<4>(from, stride, to),
        7 => short::<7>(from, stride, to),
        8 => short::<8>(from, stride, to),
        14 => short::<14>(from, stride, to),
        16 => short::<16>(from, stride, to),
        28 => short::<28>(from, stride, to),
        32 => short::<32>(from, stride, to),
        _ => {
            for (to, from) in to.chunks_exact_mut(width).zip(from.chunks(stride)) {
                to.copy_from_slice(&from[..width]);
            }
        }
    }
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
    pub fn unfold(&self, x: Input<'_>, rows: Range<usize>, panel: &Panel, to: &mut [f32]) {
        if panel.pixels.len() == self.target[0] * self.target[1]
            && let Some(border) = self.border()
        {
            return self.unfold_whole(x, rows, &panel.images, border, to);
        }
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

    /// Zeros around the source with which every window is inside it and windows are one apart;
    /// `None` for strides above 1.
    fn border(&self) -> Option<[usize; 2]> {
        if self.stride != [1, 1] || self.is_pointwise() {
            return None;
        }
        let border = |d: usize| {
            // The gradient of the input reads the mirrored windows of the output.
            if self.transposed {
                (self.kernel[d] - 1).checked_sub(self.padding[d])
            } else {
                Some(self.padding[d])
            }
        };
        Some([border(0)?, border(1)?])
    }

    /// As [`Windows::unfold`] for whole images with a stride of 1, from copies of the planes with
    /// zeros around them: short rows have no special cases at their ends.
    fn unfold_whole(
        &self,
        x: Input<'_>,
        rows: Range<usize>,
        images: &Range<usize>,
        [above, before]: [usize; 2],
        to: &mut [f32],
    ) {
        let ([height, width], [target_height, target_width]) = (self.source, self.target);
        let (taps, pixels) = (self.taps(), target_height * target_width);
        let (columns, padded_width) = (images.len() * pixels, width + 2 * before);
        with_scratch((height + 2 * above) * padded_width, |padded| {
            padded.fill(0.0);
            let mut row = rows.start;
            while row < rows.end {
                let channel = row / taps;
                let end = rows.end.min((channel + 1) * taps);
                let to = &mut to[(row - rows.start) * columns..(end - rows.start) * columns];
                for (number, image) in images.clone().enumerate() {
                    let source = &x.item(image)[channel * height * width..][..height * width];
                    let inner = padded[above * padded_width..].chunks_mut(padded_width);
                    for (inner, source) in inner.zip(source.chunks_exact(width)) {
                        inner[before..before + width].copy_from_slice(source);
                    }
                    for (tap, to) in (row..end).zip(to.chunks_exact_mut(columns)) {
                        let tap = tap % taps;
                        let mut tap = [tap / self.kernel[1], tap % self.kernel[1]];
                        if self.transposed {
                            tap = [self.kernel[0] - 1 - tap[0], self.kernel[1] - 1 - tap[1]];
                        }
                        let from = &padded[tap[0] * padded_width + tap[1]..];
                        let to = &mut to[number * pixels..][..pixels];
                        copy_rows(from, padded_width, to, target_width);
                    }
                }
                row = end;
            }
        });
    }

    /// The values that one tap reads from a plane for a range of target pixels.
    fn unfold_plane(&self, source: &[f32], tap: [usize; 2], pixels: Range<usize>, to: &mut [f32]) {
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
