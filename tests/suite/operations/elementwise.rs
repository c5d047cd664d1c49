//! relu, add, copy, fill.

use incept::graph::{Add, Copy, Fill};
use incept::ops::{Relu, ReluGrad};
use incept::tensor::Spec;

use super::gradient::check_gradient;
use super::support::{check, noise, spec};

const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [2, 3, 5, 7], [3, 16, 8, 8]];

#[test]
fn relu() {
    for dims in SHAPES {
        let x = noise(&dims, 1);
        check(&Relu, &[spec(&x)], &[&x], 0.0, &[], &[]);
    }
}

#[test]
fn relu_grad() {
    for dims in SHAPES {
        let (y, dy) = (noise(&dims, 1), noise(&dims, 2));
        check(&ReluGrad, &[spec(&y), spec(&dy)], &[&y, &dy], 0.0, &[], &[]);
    }
}

#[test]
fn relu_gradient_matches_finite_differences() {
    let x = noise(&[2, 3, 5, 7], 1);
    assert!(x.data.iter().all(|x| x.abs() > 1e-5), "a value is at the kink");
    check_gradient(&Relu, &[&x], &[0]);
}

#[test]
fn add() {
    for dims in SHAPES {
        let (a, b) = (noise(&dims, 1), noise(&dims, 2));
        check(&Add, &[spec(&a), spec(&b)], &[&a, &b], 1e-7, &[], &[]);
    }
}

#[test]
fn copy() {
    for dims in SHAPES {
        let x = noise(&dims, 1);
        check(&Copy, &[spec(&x)], &[&x], 0.0, &[], &[]);
        let integers = incept::reference::Array::new(
            &dims,
            (0..dims.iter().product()).map(|i: usize| i as f32).collect(),
        );
        check(&Copy, &[Spec::u32(dims)], &[&integers], 0.0, &[], &[]);
    }
}

#[test]
fn fill() {
    for dims in SHAPES {
        check(&Fill { shape: dims.into(), value: 0.3, scaled: true }, &[], &[], 1e-7, &[], &[]);
    }
}
