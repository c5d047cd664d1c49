//! Matrix products, by the crate `gemm`, and the scratch memory of threads.

use std::cell::RefCell;

/// A matrix in a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows are contiguous and `stride` elements apart.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transposed matrix.
    pub fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

/// Elements from the first to the last of a matrix.
fn span(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    (rows - 1) * row_stride + (columns - 1) * column_stride + 1
}

/// c = a b, or c += a b with `add`, on this thread. Rows of c are contiguous and `stride` elements
/// apart.
pub(super) fn multiply(c: &mut [f32], stride: usize, a: Matrix<'_>, b: Matrix<'_>, add: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    // The product writes and reads through pointers: these are its only bounds checks.
    let inside = |x: &Matrix<'_>| {
        x.rows == 0
            || x.columns == 0
            || span(x.rows, x.columns, x.row_stride, x.column_stride) <= x.data.len()
    };
    assert!(b.rows == k && inside(&a) && inside(&b), "operands of a product have their extents");
    assert!(n <= stride && span(m, n, stride, 1) <= c.len(), "the result of a product has its extents");
    let signed = |stride: usize| isize::try_from(stride).unwrap_or(isize::MAX);
    #[allow(unsafe_code, reason = "the product takes pointers; the extents were checked above")]
    // SAFETY: all three matrices are inside their slices, and c is borrowed mutably, so it overlaps
    // neither a nor b; rows of c do not overlap because n <= stride.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            signed(stride),
            add,
            a.data.as_ptr(),
            signed(a.column_stride),
            signed(a.row_stride),
            b.data.as_ptr(),
            signed(b.column_stride),
            signed(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `run` with `length` elements of scratch memory with arbitrary values, which each thread
/// keeps for its next call.
pub(super) fn with_scratch<R>(length: usize, run: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    let result = run(&mut buffer[..length]);
    SCRATCH.with_borrow_mut(|free| free.push(buffer));
    result
}
