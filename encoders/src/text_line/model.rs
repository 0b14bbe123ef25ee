// Generated from ONNX `text_line.onnx` by burn-onnx
use burn::prelude::*;
use burn::nn::BatchNorm;
use burn::nn::BatchNormConfig;
use burn::nn::LayerNorm;
use burn::nn::LayerNormConfig;
use burn::nn::Linear;
use burn::nn::LinearConfig;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::nn::conv::Conv2dConfig;
use burn::nn::pool::AvgPool2d;
use burn::nn::pool::AvgPool2dConfig;
use burn::nn::pool::MaxPool2d;
use burn::nn::pool::MaxPool2dConfig;


#[derive(Module, Debug)]
pub struct Model<B: Backend> {
    constant128: burn::module::Param<Tensor<B, 1>>,
    constant129: burn::module::Param<Tensor<B, 1>>,
    constant160: burn::module::Param<Tensor<B, 1>>,
    constant161: burn::module::Param<Tensor<B, 1>>,
    conv2d1: Conv2d<B>,
    conv2d2: Conv2d<B>,
    conv2d3: Conv2d<B>,
    maxpool2d1: MaxPool2d,
    conv2d4: Conv2d<B>,
    conv2d5: Conv2d<B>,
    conv2d6: Conv2d<B>,
    conv2d7: Conv2d<B>,
    conv2d8: Conv2d<B>,
    conv2d9: Conv2d<B>,
    conv2d10: Conv2d<B>,
    conv2d11: Conv2d<B>,
    conv2d12: Conv2d<B>,
    conv2d13: Conv2d<B>,
    conv2d14: Conv2d<B>,
    conv2d15: Conv2d<B>,
    conv2d16: Conv2d<B>,
    conv2d17: Conv2d<B>,
    conv2d18: Conv2d<B>,
    conv2d19: Conv2d<B>,
    conv2d20: Conv2d<B>,
    conv2d21: Conv2d<B>,
    conv2d22: Conv2d<B>,
    conv2d23: Conv2d<B>,
    conv2d24: Conv2d<B>,
    conv2d25: Conv2d<B>,
    conv2d26: Conv2d<B>,
    conv2d27: Conv2d<B>,
    conv2d28: Conv2d<B>,
    conv2d29: Conv2d<B>,
    conv2d30: Conv2d<B>,
    conv2d31: Conv2d<B>,
    conv2d32: Conv2d<B>,
    conv2d33: Conv2d<B>,
    conv2d34: Conv2d<B>,
    conv2d35: Conv2d<B>,
    conv2d36: Conv2d<B>,
    conv2d37: Conv2d<B>,
    conv2d38: Conv2d<B>,
    conv2d39: Conv2d<B>,
    conv2d40: Conv2d<B>,
    conv2d41: Conv2d<B>,
    conv2d42: Conv2d<B>,
    conv2d43: Conv2d<B>,
    conv2d44: Conv2d<B>,
    conv2d45: Conv2d<B>,
    conv2d46: Conv2d<B>,
    conv2d47: Conv2d<B>,
    conv2d48: Conv2d<B>,
    conv2d49: Conv2d<B>,
    conv2d50: Conv2d<B>,
    conv2d51: Conv2d<B>,
    conv2d52: Conv2d<B>,
    conv2d53: Conv2d<B>,
    conv2d54: Conv2d<B>,
    averagepool2d1: AvgPool2d,
    conv2d55: Conv2d<B>,
    batchnormalization1: BatchNorm<B>,
    conv2d56: Conv2d<B>,
    batchnormalization2: BatchNorm<B>,
    conv2d57: Conv2d<B>,
    batchnormalization3: BatchNorm<B>,
    layernormalization1: LayerNorm<B>,
    linear1: Linear<B>,
    linear2: Linear<B>,
    layernormalization2: LayerNorm<B>,
    linear3: Linear<B>,
    linear4: Linear<B>,
    layernormalization3: LayerNorm<B>,
    linear5: Linear<B>,
    linear6: Linear<B>,
    layernormalization4: LayerNorm<B>,
    linear7: Linear<B>,
    linear8: Linear<B>,
    layernormalization5: LayerNorm<B>,
    phantom: core::marker::PhantomData<B>,
    #[module(skip)]
    device: B::Device,
}

impl<B: Backend> Model<B> {
    #[allow(unused_variables)]
    pub fn new(device: &B::Device) -> Self {
        let constant128: burn::module::Param<Tensor<B, 1>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                B,
                1,
            >::zeros([1], (device, burn::tensor::DType::F32)),
            device.clone(),
            false,
            [1].into(),
        );
        let constant129: burn::module::Param<Tensor<B, 1>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                B,
                1,
            >::from_data(
                burn::tensor::TensorData::from([0f64]),
                (device, burn::tensor::DType::F32),
            ),
            device.clone(),
            false,
            [1].into(),
        );
        let constant160: burn::module::Param<Tensor<B, 1>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                B,
                1,
            >::zeros([1], (device, burn::tensor::DType::F32)),
            device.clone(),
            false,
            [1].into(),
        );
        let constant161: burn::module::Param<Tensor<B, 1>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                B,
                1,
            >::from_data(
                burn::tensor::TensorData::from([0f64]),
                (device, burn::tensor::DType::F32),
            ),
            device.clone(),
            false,
            [1].into(),
        );
        let conv2d1 = Conv2dConfig::new([3, 48], [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d2 = Conv2dConfig::new([48, 24], [2, 2])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1))
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d3 = Conv2dConfig::new([24, 48], [2, 2])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1))
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let maxpool2d1 = MaxPool2dConfig::new([2, 2])
            .with_strides([1, 1])
            .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1))
            .with_dilation([1, 1])
            .with_ceil_mode(false)
            .init();
        let conv2d4 = Conv2dConfig::new([96, 48], [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d5 = Conv2dConfig::new([48, 96], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d6 = Conv2dConfig::new([96, 96], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(96)
            .with_bias(true)
            .init(device);
        let conv2d7 = Conv2dConfig::new([96, 24], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d8 = Conv2dConfig::new([24, 96], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d9 = Conv2dConfig::new([96, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d10 = Conv2dConfig::new([192, 96], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d11 = Conv2dConfig::new([96, 96], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(96)
            .with_bias(true)
            .init(device);
        let conv2d12 = Conv2dConfig::new([96, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d13 = Conv2dConfig::new([192, 96], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d14 = Conv2dConfig::new([96, 96], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(96)
            .with_bias(true)
            .init(device);
        let conv2d15 = Conv2dConfig::new([96, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d16 = Conv2dConfig::new([192, 96], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d17 = Conv2dConfig::new([96, 96], [3, 3])
            .with_stride([2, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(96)
            .with_bias(true)
            .init(device);
        let conv2d18 = Conv2dConfig::new([96, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d19 = Conv2dConfig::new([192, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d20 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d21 = Conv2dConfig::new([192, 48], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d22 = Conv2dConfig::new([48, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d23 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d24 = Conv2dConfig::new([384, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d25 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d26 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d27 = Conv2dConfig::new([384, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d28 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d29 = Conv2dConfig::new([192, 48], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d30 = Conv2dConfig::new([48, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d31 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d32 = Conv2dConfig::new([384, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d33 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d34 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d35 = Conv2dConfig::new([384, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d36 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d37 = Conv2dConfig::new([192, 48], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d38 = Conv2dConfig::new([48, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d39 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d40 = Conv2dConfig::new([384, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d41 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d42 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d43 = Conv2dConfig::new([384, 192], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d44 = Conv2dConfig::new([192, 192], [3, 3])
            .with_stride([2, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(192)
            .with_bias(true)
            .init(device);
        let conv2d45 = Conv2dConfig::new([192, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d46 = Conv2dConfig::new([384, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d47 = Conv2dConfig::new([384, 384], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(384)
            .with_bias(true)
            .init(device);
        let conv2d48 = Conv2dConfig::new([384, 96], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d49 = Conv2dConfig::new([96, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d50 = Conv2dConfig::new([384, 768], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d51 = Conv2dConfig::new([768, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d52 = Conv2dConfig::new([384, 384], [3, 3])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .with_dilation([1, 1])
            .with_groups(384)
            .with_bias(true)
            .init(device);
        let conv2d53 = Conv2dConfig::new([384, 768], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let conv2d54 = Conv2dConfig::new([768, 384], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let averagepool2d1 = AvgPool2dConfig::new([3, 2])
            .with_strides([3, 2])
            .with_padding(PaddingConfig2d::Valid)
            .with_count_include_pad(false)
            .with_ceil_mode(false)
            .init();
        let conv2d55 = Conv2dConfig::new([384, 120], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(false)
            .init(device);
        let batchnormalization1 = BatchNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_momentum(0.8999999761581421f64)
            .init(device);
        let conv2d56 = Conv2dConfig::new([384, 120], [1, 1])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(false)
            .init(device);
        let batchnormalization2 = BatchNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_momentum(0.8999999761581421f64)
            .init(device);
        let conv2d57 = Conv2dConfig::new([120, 120], [1, 7])
            .with_stride([1, 1])
            .with_padding(PaddingConfig2d::Explicit(0, 3, 0, 3))
            .with_dilation([1, 1])
            .with_groups(120)
            .with_bias(false)
            .init(device);
        let batchnormalization3 = BatchNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_momentum(0.8999999761581421f64)
            .init(device);
        let layernormalization1 = LayerNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_bias(true)
            .init(device);
        let linear1 = LinearConfig::new(120, 360).with_bias(true).init(device);
        let linear2 = LinearConfig::new(120, 120).with_bias(true).init(device);
        let layernormalization2 = LayerNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_bias(true)
            .init(device);
        let linear3 = LinearConfig::new(120, 240).with_bias(true).init(device);
        let linear4 = LinearConfig::new(240, 120).with_bias(true).init(device);
        let layernormalization3 = LayerNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_bias(true)
            .init(device);
        let linear5 = LinearConfig::new(120, 360).with_bias(true).init(device);
        let linear6 = LinearConfig::new(120, 120).with_bias(true).init(device);
        let layernormalization4 = LayerNormConfig::new(120)
            .with_epsilon(0.000009999999747378752f64)
            .with_bias(true)
            .init(device);
        let linear7 = LinearConfig::new(120, 240).with_bias(true).init(device);
        let linear8 = LinearConfig::new(240, 120).with_bias(true).init(device);
        let layernormalization5 = LayerNormConfig::new(120)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        Self {
            constant128,
            constant129,
            constant160,
            constant161,
            conv2d1,
            conv2d2,
            conv2d3,
            maxpool2d1,
            conv2d4,
            conv2d5,
            conv2d6,
            conv2d7,
            conv2d8,
            conv2d9,
            conv2d10,
            conv2d11,
            conv2d12,
            conv2d13,
            conv2d14,
            conv2d15,
            conv2d16,
            conv2d17,
            conv2d18,
            conv2d19,
            conv2d20,
            conv2d21,
            conv2d22,
            conv2d23,
            conv2d24,
            conv2d25,
            conv2d26,
            conv2d27,
            conv2d28,
            conv2d29,
            conv2d30,
            conv2d31,
            conv2d32,
            conv2d33,
            conv2d34,
            conv2d35,
            conv2d36,
            conv2d37,
            conv2d38,
            conv2d39,
            conv2d40,
            conv2d41,
            conv2d42,
            conv2d43,
            conv2d44,
            conv2d45,
            conv2d46,
            conv2d47,
            conv2d48,
            conv2d49,
            conv2d50,
            conv2d51,
            conv2d52,
            conv2d53,
            conv2d54,
            averagepool2d1,
            conv2d55,
            batchnormalization1,
            conv2d56,
            batchnormalization2,
            conv2d57,
            batchnormalization3,
            layernormalization1,
            linear1,
            linear2,
            layernormalization2,
            linear3,
            linear4,
            layernormalization3,
            linear5,
            linear6,
            layernormalization4,
            linear7,
            linear8,
            layernormalization5,
            phantom: core::marker::PhantomData,
            device: device.clone(),
        }
    }

    #[allow(clippy::let_and_return, clippy::approx_constant)]
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 3> {
        let constant116_out1: [i64; 1] = [-1i64];
        let constant128_out1 = self.constant128.val();
        let constant129_out1 = self.constant129.val();
        let constant160_out1 = self.constant160.val();
        let constant161_out1 = self.constant161.val();
        let constant186_out1: [i64; 1] = [0i64];
        let constant187_out1: [i64; 1] = [1i64];
        let constant188_out1: [i64; 1] = [120i64];
        let conv2d1_out1 = self.conv2d1.forward(x);
        let relu1_out1 = burn::tensor::activation::relu(conv2d1_out1);
        let conv2d2_out1 = self.conv2d2.forward(relu1_out1.clone());
        let relu2_out1 = burn::tensor::activation::relu(conv2d2_out1);
        let conv2d3_out1 = self.conv2d3.forward(relu2_out1);
        let relu3_out1 = burn::tensor::activation::relu(conv2d3_out1);
        let maxpool2d1_out1 = self.maxpool2d1.forward(relu1_out1);
        let concat1_out1 = burn::tensor::Tensor::cat(
            [maxpool2d1_out1, relu3_out1].into(),
            1,
        );
        let conv2d4_out1 = self.conv2d4.forward(concat1_out1);
        let relu4_out1 = burn::tensor::activation::relu(conv2d4_out1);
        let conv2d5_out1 = self.conv2d5.forward(relu4_out1);
        let relu5_out1 = burn::tensor::activation::relu(conv2d5_out1);
        let conv2d6_out1 = self.conv2d6.forward(relu5_out1);
        let reducemean1_out1 = {
            conv2d6_out1.clone().mean_dim(2usize).mean_dim(3usize)
        };
        let conv2d7_out1 = self.conv2d7.forward(reducemean1_out1);
        let relu6_out1 = burn::tensor::activation::relu(conv2d7_out1);
        let conv2d8_out1 = self.conv2d8.forward(relu6_out1);
        let hardsigmoid1_out1 = burn::tensor::activation::hard_sigmoid(
            conv2d8_out1,
            0.16666670143604279,
            0.5,
        );
        let mul1_out1 = conv2d6_out1.mul(hardsigmoid1_out1);
        let conv2d9_out1 = self.conv2d9.forward(mul1_out1.clone());
        let gelu1_out1 = burn::tensor::activation::gelu(conv2d9_out1);
        let conv2d10_out1 = self.conv2d10.forward(gelu1_out1);
        let add1_out1 = mul1_out1.add(conv2d10_out1);
        let conv2d11_out1 = self.conv2d11.forward(add1_out1);
        let conv2d12_out1 = self.conv2d12.forward(conv2d11_out1.clone());
        let gelu2_out1 = burn::tensor::activation::gelu(conv2d12_out1);
        let conv2d13_out1 = self.conv2d13.forward(gelu2_out1);
        let add2_out1 = conv2d11_out1.add(conv2d13_out1);
        let conv2d14_out1 = self.conv2d14.forward(add2_out1);
        let conv2d15_out1 = self.conv2d15.forward(conv2d14_out1.clone());
        let gelu3_out1 = burn::tensor::activation::gelu(conv2d15_out1);
        let conv2d16_out1 = self.conv2d16.forward(gelu3_out1);
        let add3_out1 = conv2d14_out1.add(conv2d16_out1);
        let conv2d17_out1 = self.conv2d17.forward(add3_out1);
        let conv2d18_out1 = self.conv2d18.forward(conv2d17_out1);
        let gelu4_out1 = burn::tensor::activation::gelu(conv2d18_out1);
        let conv2d19_out1 = self.conv2d19.forward(gelu4_out1);
        let conv2d20_out1 = self.conv2d20.forward(conv2d19_out1);
        let reducemean2_out1 = {
            conv2d20_out1.clone().mean_dim(2usize).mean_dim(3usize)
        };
        let conv2d21_out1 = self.conv2d21.forward(reducemean2_out1);
        let relu7_out1 = burn::tensor::activation::relu(conv2d21_out1);
        let conv2d22_out1 = self.conv2d22.forward(relu7_out1);
        let hardsigmoid2_out1 = burn::tensor::activation::hard_sigmoid(
            conv2d22_out1,
            0.16666670143604279,
            0.5,
        );
        let mul2_out1 = conv2d20_out1.mul(hardsigmoid2_out1);
        let conv2d23_out1 = self.conv2d23.forward(mul2_out1.clone());
        let gelu5_out1 = burn::tensor::activation::gelu(conv2d23_out1);
        let conv2d24_out1 = self.conv2d24.forward(gelu5_out1);
        let add4_out1 = mul2_out1.add(conv2d24_out1);
        let conv2d25_out1 = self.conv2d25.forward(add4_out1);
        let conv2d26_out1 = self.conv2d26.forward(conv2d25_out1.clone());
        let gelu6_out1 = burn::tensor::activation::gelu(conv2d26_out1);
        let conv2d27_out1 = self.conv2d27.forward(gelu6_out1);
        let add5_out1 = conv2d25_out1.add(conv2d27_out1);
        let conv2d28_out1 = self.conv2d28.forward(add5_out1);
        let reducemean3_out1 = {
            conv2d28_out1.clone().mean_dim(2usize).mean_dim(3usize)
        };
        let conv2d29_out1 = self.conv2d29.forward(reducemean3_out1);
        let relu8_out1 = burn::tensor::activation::relu(conv2d29_out1);
        let conv2d30_out1 = self.conv2d30.forward(relu8_out1);
        let hardsigmoid3_out1 = burn::tensor::activation::hard_sigmoid(
            conv2d30_out1,
            0.16666670143604279,
            0.5,
        );
        let mul3_out1 = conv2d28_out1.mul(hardsigmoid3_out1);
        let conv2d31_out1 = self.conv2d31.forward(mul3_out1.clone());
        let gelu7_out1 = burn::tensor::activation::gelu(conv2d31_out1);
        let conv2d32_out1 = self.conv2d32.forward(gelu7_out1);
        let add6_out1 = mul3_out1.add(conv2d32_out1);
        let conv2d33_out1 = self.conv2d33.forward(add6_out1);
        let conv2d34_out1 = self.conv2d34.forward(conv2d33_out1.clone());
        let gelu8_out1 = burn::tensor::activation::gelu(conv2d34_out1);
        let conv2d35_out1 = self.conv2d35.forward(gelu8_out1);
        let add7_out1 = conv2d33_out1.add(conv2d35_out1);
        let conv2d36_out1 = self.conv2d36.forward(add7_out1);
        let reducemean4_out1 = {
            conv2d36_out1.clone().mean_dim(2usize).mean_dim(3usize)
        };
        let conv2d37_out1 = self.conv2d37.forward(reducemean4_out1);
        let relu9_out1 = burn::tensor::activation::relu(conv2d37_out1);
        let conv2d38_out1 = self.conv2d38.forward(relu9_out1);
        let hardsigmoid4_out1 = burn::tensor::activation::hard_sigmoid(
            conv2d38_out1,
            0.16666670143604279,
            0.5,
        );
        let mul4_out1 = conv2d36_out1.mul(hardsigmoid4_out1);
        let conv2d39_out1 = self.conv2d39.forward(mul4_out1.clone());
        let gelu9_out1 = burn::tensor::activation::gelu(conv2d39_out1);
        let conv2d40_out1 = self.conv2d40.forward(gelu9_out1);
        let add8_out1 = mul4_out1.add(conv2d40_out1);
        let conv2d41_out1 = self.conv2d41.forward(add8_out1);
        let conv2d42_out1 = self.conv2d42.forward(conv2d41_out1.clone());
        let gelu10_out1 = burn::tensor::activation::gelu(conv2d42_out1);
        let conv2d43_out1 = self.conv2d43.forward(gelu10_out1);
        let add9_out1 = conv2d41_out1.add(conv2d43_out1);
        let conv2d44_out1 = self.conv2d44.forward(add9_out1);
        let conv2d45_out1 = self.conv2d45.forward(conv2d44_out1);
        let gelu11_out1 = burn::tensor::activation::gelu(conv2d45_out1);
        let conv2d46_out1 = self.conv2d46.forward(gelu11_out1);
        let conv2d47_out1 = self.conv2d47.forward(conv2d46_out1);
        let reducemean5_out1 = {
            conv2d47_out1.clone().mean_dim(2usize).mean_dim(3usize)
        };
        let conv2d48_out1 = self.conv2d48.forward(reducemean5_out1);
        let relu10_out1 = burn::tensor::activation::relu(conv2d48_out1);
        let conv2d49_out1 = self.conv2d49.forward(relu10_out1);
        let hardsigmoid5_out1 = burn::tensor::activation::hard_sigmoid(
            conv2d49_out1,
            0.16666670143604279,
            0.5,
        );
        let mul5_out1 = conv2d47_out1.mul(hardsigmoid5_out1);
        let conv2d50_out1 = self.conv2d50.forward(mul5_out1.clone());
        let gelu12_out1 = burn::tensor::activation::gelu(conv2d50_out1);
        let conv2d51_out1 = self.conv2d51.forward(gelu12_out1);
        let add10_out1 = mul5_out1.add(conv2d51_out1);
        let conv2d52_out1 = self.conv2d52.forward(add10_out1);
        let conv2d53_out1 = self.conv2d53.forward(conv2d52_out1.clone());
        let gelu13_out1 = burn::tensor::activation::gelu(conv2d53_out1);
        let conv2d54_out1 = self.conv2d54.forward(gelu13_out1);
        let add11_out1 = conv2d52_out1.add(conv2d54_out1);
        let averagepool2d1_out1 = self.averagepool2d1.forward(add11_out1);
        let conv2d55_out1 = self.conv2d55.forward(averagepool2d1_out1.clone());
        let batchnormalization1_out1 = self.batchnormalization1.forward(conv2d55_out1);
        let sigmoid1_out1 = burn::tensor::activation::sigmoid(
            batchnormalization1_out1.clone(),
        );
        let mul6_out1 = batchnormalization1_out1.mul(sigmoid1_out1);
        let conv2d56_out1 = self.conv2d56.forward(averagepool2d1_out1);
        let batchnormalization2_out1 = self.batchnormalization2.forward(conv2d56_out1);
        let sigmoid2_out1 = burn::tensor::activation::sigmoid(
            batchnormalization2_out1.clone(),
        );
        let mul7_out1 = batchnormalization2_out1.mul(sigmoid2_out1);
        let conv2d57_out1 = self.conv2d57.forward(mul7_out1.clone());
        let batchnormalization3_out1 = self.batchnormalization3.forward(conv2d57_out1);
        let sigmoid3_out1 = burn::tensor::activation::sigmoid(
            batchnormalization3_out1.clone(),
        );
        let mul8_out1 = batchnormalization3_out1.mul(sigmoid3_out1);
        let add12_out1 = mul7_out1.add(mul8_out1);
        let shape1_out1: [i64; 4] = {
            let axes = &add12_out1.clone().dims()[0..4];
            let mut output = [0i64; 4];
            for i in 0..4 {
                output[i] = axes[i] as i64;
            }
            output
        };
        let slice1_out1: [i64; 1] = shape1_out1[3..4].try_into().unwrap();
        let squeeze1_out1 = slice1_out1[0] as i64;
        let shape2_out1: [i64; 4] = {
            let axes = &add12_out1.clone().dims()[0..4];
            let mut output = [0i64; 4];
            for i in 0..4 {
                output[i] = axes[i] as i64;
            }
            output
        };
        let slice2_out1: [i64; 2] = shape2_out1[0..2].try_into().unwrap();
        let concat2_out1: [i64; 3usize] = [&slice2_out1[..], &constant116_out1[..]]
            .concat()
            .try_into()
            .unwrap();
        let reshape1_out1 = add12_out1.reshape(concat2_out1);
        let transpose1_out1 = reshape1_out1.permute([0, 2, 1]);
        let layernormalization1_out1 = {
            let dtype = transpose1_out1.clone().dtype();
            self.layernormalization1
                .forward(transpose1_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear1_out1 = self.linear1.forward(layernormalization1_out1);
        let reshape2_out1 = linear1_out1.reshape([0, -1, 3, 8, 15]);
        let transpose2_out1 = reshape2_out1.permute([2, 0, 3, 1, 4]);
        let slice3_out1 = transpose2_out1.clone().slice(s![0..1, .., .., .., ..]);
        let squeeze2_out1 = slice3_out1.squeeze_dims::<4>(&[0]);
        let mul9_out1 = squeeze2_out1
            .mul((constant128_out1).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let add13_out1 = mul9_out1
            .add((constant129_out1).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let slice4_out1 = transpose2_out1.clone().slice(s![1..2, .., .., .., ..]);
        let squeeze3_out1 = slice4_out1.squeeze_dims::<4>(&[0]);
        let slice5_out1 = transpose2_out1.slice(s![2..3, .., .., .., ..]);
        let squeeze4_out1 = slice5_out1.squeeze_dims::<4>(&[0]);
        let transpose3_out1 = squeeze3_out1.permute([0, 1, 3, 2]);
        let matmul2_out1 = add13_out1.matmul(transpose3_out1);
        let softmax1_out1 = burn::tensor::activation::softmax(matmul2_out1, 3);
        let matmul3_out1 = softmax1_out1.matmul(squeeze4_out1);
        let transpose4_out1 = matmul3_out1.permute([0, 2, 1, 3]);
        let reshape3_out1 = transpose4_out1.reshape([0, -1, 120]);
        let linear2_out1 = self.linear2.forward(reshape3_out1);
        let add14_out1 = transpose1_out1.add(linear2_out1);
        let layernormalization2_out1 = {
            let dtype = add14_out1.clone().dtype();
            self.layernormalization2
                .forward(add14_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear3_out1 = self.linear3.forward(layernormalization2_out1);
        let sigmoid4_out1 = burn::tensor::activation::sigmoid(linear3_out1.clone());
        let mul10_out1 = linear3_out1.mul(sigmoid4_out1);
        let linear4_out1 = self.linear4.forward(mul10_out1);
        let add15_out1 = add14_out1.add(linear4_out1);
        let layernormalization3_out1 = {
            let dtype = add15_out1.clone().dtype();
            self.layernormalization3
                .forward(add15_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear5_out1 = self.linear5.forward(layernormalization3_out1);
        let reshape4_out1 = linear5_out1.reshape([0, -1, 3, 8, 15]);
        let transpose5_out1 = reshape4_out1.permute([2, 0, 3, 1, 4]);
        let slice6_out1 = transpose5_out1.clone().slice(s![0..1, .., .., .., ..]);
        let squeeze5_out1 = slice6_out1.squeeze_dims::<4>(&[0]);
        let mul11_out1 = squeeze5_out1
            .mul((constant160_out1).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let add16_out1 = mul11_out1
            .add((constant161_out1).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let slice7_out1 = transpose5_out1.clone().slice(s![1..2, .., .., .., ..]);
        let squeeze6_out1 = slice7_out1.squeeze_dims::<4>(&[0]);
        let slice8_out1 = transpose5_out1.slice(s![2..3, .., .., .., ..]);
        let squeeze7_out1 = slice8_out1.squeeze_dims::<4>(&[0]);
        let transpose6_out1 = squeeze6_out1.permute([0, 1, 3, 2]);
        let matmul8_out1 = add16_out1.matmul(transpose6_out1);
        let softmax2_out1 = burn::tensor::activation::softmax(matmul8_out1, 3);
        let matmul9_out1 = softmax2_out1.matmul(squeeze7_out1);
        let transpose7_out1 = matmul9_out1.permute([0, 2, 1, 3]);
        let reshape5_out1 = transpose7_out1.reshape([0, -1, 120]);
        let linear6_out1 = self.linear6.forward(reshape5_out1);
        let add17_out1 = add15_out1.add(linear6_out1);
        let layernormalization4_out1 = {
            let dtype = add17_out1.clone().dtype();
            self.layernormalization4
                .forward(add17_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear7_out1 = self.linear7.forward(layernormalization4_out1);
        let sigmoid5_out1 = burn::tensor::activation::sigmoid(linear7_out1.clone());
        let mul12_out1 = linear7_out1.mul(sigmoid5_out1);
        let linear8_out1 = self.linear8.forward(mul12_out1);
        let add18_out1 = add17_out1.add(linear8_out1);
        let layernormalization5_out1 = {
            let dtype = add18_out1.dtype();
            self.layernormalization5
                .forward(add18_out1.cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let reshape6_out1 = squeeze1_out1;
        let unsqueeze1_out1 = [reshape6_out1 as i64];
        let concat3_out1: [i64; 4usize] = [
            &constant186_out1[..],
            &constant187_out1[..],
            &unsqueeze1_out1[..],
            &constant188_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape7_out1 = layernormalization5_out1.reshape(concat3_out1);
        let transpose8_out1 = reshape7_out1.permute([0, 3, 1, 2]);
        let add19_out1 = transpose8_out1.add(mul6_out1);
        let squeeze8_out1 = add19_out1.squeeze_dims::<3>(&[2]);
        let transpose9_out1 = squeeze8_out1.permute([0, 2, 1]);
        transpose9_out1
    }
}
