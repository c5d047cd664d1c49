//! Linear layers: one matrix product, cut into blocks of features.

use super::super::operands::Call;
use super::super::parallel::each;
use super::super::product::{Matrix, multiply, with_scratch};
use super::Kernel;
use crate::ops::{Linear, LinearBiasGrad, LinearInputGrad, LinearWeightGrad};

/// Columns of the result per task.
const COLUMNS: usize = 128;

/// Batch items of a tensor as the rows of a matrix: (rows, columns).
fn matrix(dims: &[usize]) -> (usize, usize) {
    (dims.first().copied().unwrap_or(1), dims.iter().skip(1).product())
}

/// Cuts rows into blocks of up to [`COLUMNS`] columns: (first column, slice of each row).
fn columns<'a>(rows: Vec<&'a mut [f32]>, width: usize) -> Vec<(usize, Vec<&'a mut [f32]>)> {
    let starts = (0..width).step_by(COLUMNS);
    let mut list: Vec<(usize, Vec<&'a mut [f32]>)> = starts.map(|first| (first, Vec::new())).collect();
    for row in rows {
        for (block, piece) in list.iter_mut().zip(row.chunks_mut(COLUMNS)) {
            block.1.push(piece);
        }
    }
    list
}

impl Kernel for Linear {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (x, w, b) = (call.input(0)?, call.input(1)?, call.input(2)?);
        let ((batch, features), outputs) = (matrix(x.dims()), b.dims().first().copied()?);
        let (x, w, b) = (x.dense()?, w.dense()?, b.dense()?);
        let tasks = columns(call.outputs.first_mut()?.items(), outputs);
        each(tasks, batch * features * outputs, |(first, mut rows)| {
            let width = rows.first().map_or(0, |row| row.len());
            let weights = Matrix::new(&w[first * features..], width, features, features);
            with_scratch(batch * width, |result| {
                multiply(
                    result,
                    width,
                    Matrix::new(x, batch, features, features),
                    weights.transposed(),
                    false,
                );
                for (to, from) in rows.iter_mut().zip(result.chunks_exact(width.max(1))) {
                    for ((to, from), bias) in to.iter_mut().zip(from).zip(&b[first..]) {
                        let y = from + bias;
                        *to = if self.relu && y < 0.0 { 0.0 } else { y };
                    }
                }
            });
        });
        Some(())
    }
}

impl Kernel for LinearInputGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (dy, w) = (call.input(0)?, call.input(1)?);
        let ((batch, outputs), (_, features)) = (matrix(dy.dims()), matrix(w.dims()));
        let (dy, w) = (dy.dense()?, w.dense()?);
        let tasks = columns(call.outputs.first_mut()?.items(), features);
        each(tasks, batch * features * outputs, |(first, mut rows)| {
            let width = rows.first().map_or(0, |row| row.len());
            with_scratch(batch * width, |result| {
                let weights = Matrix::new(&w[first..], outputs, width, features);
                multiply(result, width, Matrix::new(dy, batch, outputs, outputs), weights, false);
                for (to, from) in rows.iter_mut().zip(result.chunks_exact(width.max(1))) {
                    to.copy_from_slice(from);
                }
            });
        });
        Some(())
    }
}

impl Kernel for LinearWeightGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let (x, dy) = (call.input(0)?, call.input(1)?);
        let ((batch, features), (_, outputs)) = (matrix(x.dims()), matrix(dy.dims()));
        let (x, dy) = (x.dense()?, dy.dense()?);
        // Blocks of rows are contiguous.
        let high = outputs.div_ceil(8).max(8);
        let dw = call.outputs.first_mut()?.dense()?;
        let tasks = dw.chunks_mut(high * features).enumerate().collect();
        each(tasks, batch * features * outputs, |(i, part)| {
            let rows = part.len() / features.max(1);
            let left = Matrix::new(&dy[i * high..], batch, rows, outputs).transposed();
            multiply(part, features, left, Matrix::new(x, batch, features, features), false);
        });
        Some(())
    }
}

impl Kernel for LinearBiasGrad {
    fn run(&self, call: &mut Call<'_>) -> Option<()> {
        let dy = call.input(0)?;
        let (batch, _) = matrix(dy.dims());
        let db = call.outputs.first_mut()?.dense()?;
        db.fill(0.0);
        for n in 0..batch {
            db.iter_mut().zip(dy.item(n)).for_each(|(sum, dy)| *sum += dy);
        }
        Some(())
    }
}
