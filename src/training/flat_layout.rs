//! Everything that learns in one tensor: where each matrix lies.

use std::collections::BTreeMap;

use burn::prelude::*;
use burn::tensor::TensorData;
use diffmas_backends::{ModelBackend, human_bytes};

use crate::backbone::Parameters;
use crate::error::{Error, Result};

/// Matrices begin at multiples of so many numbers, 512 bytes, in which CubeCL counts on CUDA and others in less: a part of a tensor from there on is
/// a tensor.
const STEP: usize = 128;

/// A matrix in a flat tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number among the matrices.
    pub index: usize,
    /// Where it begins.
    pub from: usize,
    /// Rows and columns.
    pub shape: [usize; 2],
}

impl Place {
    /// How many numbers it has.
    pub fn num_elements(self) -> usize {
        self.shape.iter().product()
    }

    /// Where the next begins.
    pub fn end(self) -> usize {
        (self.from + self.num_elements()).next_multiple_of(STEP)
    }
}

/// Where named matrices lie in one tensor `[N]`, one after another.
#[derive(Clone, Debug, Default)]
pub struct FlatLayout {
    places: BTreeMap<String, Place>,
    len: usize,
}

impl FlatLayout {
    /// Matrices in the order given.
    pub fn new(matrices: impl IntoIterator<Item = (String, [usize; 2])>) -> Self {
        let mut layout = Self::default();
        for (index, (name, shape)) in matrices.into_iter().enumerate() {
            let place = Place { index, from: layout.len, shape };
            layout.len = place.end();
            layout.places.insert(name, place);
        }
        layout
    }

    /// Refuses what `device` cannot hold in one piece.
    ///
    /// # Errors
    /// With both sizes.
    pub fn check<B: ModelBackend>(&self, device: &B::Device) -> Result<()> {
        let bytes = (self.len * size_of::<B::FloatElem>()) as u64;
        match B::largest_tensor(device).filter(|&limit| bytes > limit) {
            None => Ok(()),
            Some(limit) => Err(Error::invalid(format!(
                "what learns needs a tensor of {}, but this device of backend {} holds at most {} in one piece; a smaller lora_r or fewer \
                 target_modules need less, and CPUs (--backend flex) have no such limit",
                human_bytes(bytes),
                B::name(device),
                human_bytes(limit),
            ))),
        }
    }

    /// The numbers of the tensor, `N`; some of them are no matrix's.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no matrix.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The matrix called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    /// Names and places, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, Place)> {
        self.places.iter().map(|(name, &place)| (name, place))
    }

    /// The places in the order in which they lie.
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.places.values().copied().collect();
        places.sort_by_key(|place| place.index);
        places
    }

    /// A tensor to which any number can be added and is there unchanged: of −0, since 0 makes 0 of −0.
    pub fn zeros<B: Backend>(&self, device: &B::Device) -> Tensor<B, 1> {
        Tensor::full([self.len], -0.0, device)
    }

    /// The numbers of matrices that are on the host, as a tensor.
    ///
    /// # Panics
    /// If one of them has another size.
    pub fn from_host<B: Backend>(
        &self,
        matrices: impl IntoIterator<Item = (Place, Vec<f32>)>,
        device: &B::Device,
    ) -> Tensor<B, 1> {
        let mut all = vec![-0.0; self.len];
        for (place, values) in matrices {
            all[place.from..][..place.num_elements()].copy_from_slice(&values);
        }
        Tensor::from_data(TensorData::new(all, [self.len]), device)
    }

    /// `flat`, and `matrices` added to it, each in its place; in place where nobody else holds it.
    ///
    /// # Panics
    /// If one of them has no place here.
    pub fn added<B: ModelBackend>(&self, flat: Tensor<B, 1>, matrices: &Parameters<B>) -> Tensor<B, 1> {
        let part = |(name, matrix): (&String, &Tensor<B, 2>)| {
            let place = self.find(name).unwrap_or_else(|| panic!("`{name}` does not learn"));
            assert_eq!(matrix.dims(), place.shape, "`{name}`");
            (place.from, matrix.clone())
        };
        B::added(flat, matrices.iter().map(part).collect())
    }

    /// The matrices in `flat` for which `wanted` holds, by name; without a copy where the backend has views.
    pub fn parts<B: ModelBackend>(
        &self,
        flat: &Tensor<B, 1>,
        wanted: impl Fn(Place) -> bool,
    ) -> Parameters<B> {
        let wanted = self.iter().filter(|(_, place)| wanted(*place));
        wanted.map(|(name, place)| (name.clone(), B::part(flat, place.from, place.shape))).collect()
    }
}
