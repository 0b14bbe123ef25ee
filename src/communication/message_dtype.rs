//! How precisely the numbers of a message are passed on.

use burn::prelude::*;
use burn::tensor::DType;
use diffmas_backends::ModelBackend;

named_enum! {
    /// What the numbers of a message are rounded to where it leaves its sender.
    ///
    /// `int8` and `int4` are symmetric: one scale `s` for the numbers of one position, layer, key or value and KV head, or of one vector, and a
    /// whole number `q` for each of them. With `Q` = 127 or 7,
    ///
    /// ```text
    /// s = f16(max|x| / Q), at least 2⁻¹⁴, at most 65504        q = round(x / s), ties to even, at most Q in size        x̂ = s·q
    /// ```
    ///
    /// so that `|x − x̂| ≤ s/2` for numbers up to `65504·Q`, and all of a vector of zeros is 0. Scales are normal numbers of f16: what is rounded
    /// once is the same when it is rounded again. Keys are rounded as they are before the rotary embedding.
    MessageDtype, "message_dtype" {
        /// As they are computed.
        #[default]
        F32 = "f32",
        /// Each number to the nearest bfloat16.
        Bf16 = "bf16",
        /// Whole numbers up to 127 with a scale.
        Int8 = "int8",
        /// Whole numbers up to 7 with a scale, two a byte.
        Int4 = "int4",
    }
}

/// The least scale: the least normal number of f16.
pub(super) const LEAST: f32 = 1.0 / 16384.0;
/// The greatest scale: the greatest number of f16.
pub(super) const GREATEST: f32 = 65504.0;

impl MessageDtype {
    /// The largest whole number, where numbers have a scale.
    pub(super) fn levels(self) -> Option<f32> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::Int8 => Some(127.0),
            Self::Int4 => Some(7.0),
        }
    }

    /// Bytes of `width` numbers and their scale; a number takes `computed` bytes where it is passed on as it is computed.
    pub fn bytes(self, width: usize, computed: usize) -> usize {
        match self {
            Self::F32 => width * computed,
            Self::Bf16 => width * 2,
            Self::Int8 => width + 2,
            Self::Int4 => width.div_ceil(2) + 2,
        }
    }

    /// `x` rounded; numbers along the last dimension have one scale. Not differentiable.
    pub(super) fn round<B: ModelBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        let dtype = x.dtype();
        let x = if dtype == DType::F32 { x } else { x.cast(DType::F32) };
        let rounded = match (self, self.levels()) {
            (_, Some(levels)) => {
                let largest = B::max_last(x.clone().abs());
                let scale = split(largest.div_scalar(levels), 11).clamp(LEAST, GREATEST);
                x.div(scale.clone()).round().clamp(-levels, levels).mul(scale)
            }
            (Self::Bf16, None) => split(x, 8),
            (_, None) => x,
        };
        if dtype == DType::F32 { rounded } else { rounded.cast(dtype) }
    }
}

/// Each number of f32 rounded to `bits` significant bits, by splitting it (Veltkamp; Dekker, 1971): with `c = x·(2^(24 − bits) + 1)`,
/// `c − (c − x)`. Unlike a cast it needs no device that computes in the narrower type.
fn split<B: Backend, const D: usize>(x: Tensor<B, D>, bits: i32) -> Tensor<B, D> {
    let c = x.clone().mul_scalar(2f32.powi(24 - bits) + 1.0);
    c.clone() - (c - x)
}

/// `rounded`, whose gradient goes to `exact` as it is.
pub(super) fn straight_through<B: Backend, const D: usize>(
    exact: Tensor<B, D>,
    rounded: Tensor<B, D>,
) -> Tensor<B, D> {
    if !B::ad_enabled(&exact.device()) {
        return rounded;
    }
    // The difference is 0: not a bit of what is rounded changes.
    rounded + (exact.clone() - exact.detach())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::TensorData;
    use diffmas_backends::{Autodiff, Flex};
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;

    fn rounded(dtype: MessageDtype, values: &[f32], width: usize) -> Vec<f32> {
        let data = TensorData::new(values.to_vec(), [values.len() / width, width]);
        let x: Tensor<Flex, 2> = Tensor::from_data(data, &Default::default());
        dtype.round(x).into_data().to_vec().unwrap()
    }

    /// Numbers of all sizes, by vectors of five.
    fn vectors() -> impl Strategy<Value = Vec<f32>> {
        let number = (-1f32..1.0, -30i32..20).prop_map(|(x, e)| x * 2f32.powi(e));
        let vector = (prop::collection::vec(-1f32..1.0, 5), -30i32..20)
            .prop_map(|(x, e)| x.into_iter().map(|x| x * 2f32.powi(e)).collect::<Vec<f32>>());
        let mixed = prop::collection::vec(prop_oneof![Just(0.0f32), number], 5);
        prop::collection::vec(prop_oneof![vector, mixed], 1..8).prop_map(|all| all.concat())
    }

    proptest! {
        #[test]
        fn whole_numbers_with_a_scale_are_as_near_as_half_of_it(values in vectors()) {
            for (dtype, levels) in [(MessageDtype::Int8, 127.0f32), (MessageDtype::Int4, 7.0)] {
                let got = rounded(dtype, &values, 5);
                for (x, y) in values.chunks(5).zip(got.chunks(5)) {
                    let most = x.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let scale = f16::from_f32(most / levels).to_f32().clamp(LEAST, GREATEST);
                    for (x, y) in x.iter().zip(y) {
                        let q = y / scale;
                        prop_assert!(q.fract() == 0.0 && q.abs() <= levels, "{y} by {scale}");
                        // Up to the greatest number that there is.
                        let x = x.clamp(-levels * GREATEST, levels * GREATEST);
                        prop_assert!((x - y).abs() <= 0.5 * scale * 1.001, "{x} became {y} by {scale}");
                    }
                }
                prop_assert_eq!(rounded(dtype, &got, 5), got, "what is rounded stays");
            }
        }

        #[test]
        fn bf16_is_the_nearest_bfloat16(values in vectors()) {
            let got = rounded(MessageDtype::Bf16, &values, 5);
            for (x, y) in values.iter().zip(&got) {
                let want = bf16::from_f32(*x).to_f32();
                prop_assert_eq!(bf16::from_f32(*y).to_f32(), *y);
                // Halfway between two, either is as near.
                prop_assert!(*y == want || (x - y).abs() == (x - want).abs(), "{x} became {y}, not {want}");
            }
            prop_assert_eq!(rounded(MessageDtype::Bf16, &got, 5), got);
            prop_assert_eq!(rounded(MessageDtype::F32, &values, 5), values);
        }
    }

    #[test]
    fn the_formula_at_its_ends() {
        // The greatest of a vector is Q scales, ties go to the even number, and zeros stay zeros.
        let got = rounded(MessageDtype::Int4, &[7.0, -7.0, 2.5, 3.5, 0.4], 5);
        assert_eq!(got, [7.0, -7.0, 2.0, 4.0, 0.0]);
        assert_eq!(rounded(MessageDtype::Int8, &[0.0; 5], 5), [0.0; 5]);
        // Nothing overflows: what is larger than the greatest number becomes that.
        let got = rounded(MessageDtype::Int8, &[1e30, -2.0, 3e6, -1e9, 0.0], 5);
        let most = 127.0 * GREATEST;
        assert_eq!(got, [most, 0.0, 46.0 * GREATEST, -most, 0.0]);
        // What is smaller than half of the least scale is 0.
        assert_eq!(rounded(MessageDtype::Int4, &[0.4 * LEAST, -3e-8, 0.0], 3), [0.0; 3]);
        assert_eq!(rounded(MessageDtype::Int4, &[0.7 * LEAST, -3e-8, 0.0], 3), [LEAST, 0.0, 0.0]);
    }

    #[test]
    fn bytes_are_those_of_numbers_and_scales() {
        let of = |width: usize| {
            MessageDtype::NAMES.iter().map(move |n| n.parse::<MessageDtype>().unwrap().bytes(width, 4))
        };
        assert_eq!(of(32).collect::<Vec<_>>(), [128, 64, 34, 18]);
        assert_eq!(of(5).collect::<Vec<_>>(), [20, 10, 7, 5]);
    }

    #[test]
    fn gradients_pass_through_as_if_nothing_were_rounded() {
        type Ad = Autodiff<Flex>;
        let x: Tensor<Ad, 2> = Tensor::from_data([[0.3, -0.9], [2.0, 0.01]], &Default::default());
        let x = x.require_grad();
        let y = straight_through(x.clone(), MessageDtype::Int4.round(x.clone().detach()));
        let bits = |t: Tensor<Flex, 2>| t.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(y.clone().inner()), bits(MessageDtype::Int4.round(x.clone().inner())));
        let gradient = x.grad(&(y.clone() * y.clone()).sum().backward()).unwrap();
        assert_eq!(bits(gradient), bits(y.inner().mul_scalar(2.0)));
    }
}
