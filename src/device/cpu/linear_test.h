// Linear layers for the kernel tests: what is multiplied, and its twin in double precision.
#pragma once

#include "device/cpu/test_support.h"

namespace atelier {

inline double apply(CpuEpilogue epilogue, double x) {
  switch (epilogue) {
    case CpuEpilogue::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case CpuEpilogue::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case CpuEpilogue::quick_gelu:
      return x / (1 + std::exp(-1.702 * x));
    case CpuEpilogue::silu:
      return x / (1 + std::exp(-x));
    case CpuEpilogue::plain:
    case CpuEpilogue::geglu:
      break;
  }
  return x;
}

struct Problem {
  CpuLinear layer;
  int64_t rows;
  bool bias = true;
  bool accumulate = false;
  int64_t gap = 0;  // between rows of x and of y
};

/// Every epilogue with and without bias and residual, and at sizes that are no multiples.
inline std::vector<Problem> epilogue_problems(CpuType type) {
  std::vector<Problem> problems;
  for (const CpuEpilogue epilogue :
       {CpuEpilogue::plain, CpuEpilogue::gelu, CpuEpilogue::gelu_tanh, CpuEpilogue::quick_gelu,
        CpuEpilogue::silu, CpuEpilogue::geglu}) {
    for (const bool bias : {false, true}) {
      for (const bool accumulate : {false, true}) {
        problems.push_back({{type, 160, 96, epilogue}, 70, bias, accumulate});
      }
    }
    problems.push_back({{type, 64, 42, epilogue}, 33});
    problems.push_back({{type, 75, 42, epilogue}, 33});
  }
  return problems;
}

struct Data {
  Array x, weights, bias, before, down, tail_weights;
  int64_t columns, x_stride, y_stride;
};

inline Data make_data(const Problem& p) {
  const CpuLinear& l = p.layer;
  const int64_t columns = l.epilogue == CpuEpilogue::geglu ? l.outputs / 2 : l.outputs;
  const float deviation = 1 / std::sqrt(static_cast<float>(l.inputs));
  return {Array::random(l.type, p.rows * (l.inputs + p.gap), 1),
          Array::random(l.type, l.outputs * l.inputs, 2, deviation),
          Array::random(CpuType::fp32, l.outputs, 3),
          Array::random(l.type, p.rows * (columns + p.gap), 4),
          Array::random(l.type, l.tail * l.inputs, 5, deviation),
          Array::random(l.type, l.outputs * l.tail, 6, deviation),
          columns,
          l.inputs + p.gap,
          columns + p.gap};
}

/// y, where product(row, output) is the sum of products and bias.
template <class F>
std::vector<double> finished(const Problem& p, const Data& d, const F& product) {
  std::vector<double> want(static_cast<size_t>(d.before.count()));
  for (int64_t i = 0; i < d.before.count(); ++i) want[static_cast<size_t>(i)] = d.before.at(i);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t c = 0; c < d.columns; ++c) {
      double& y = want[static_cast<size_t>(row * d.y_stride + c)];
      const double value =
          p.layer.epilogue == CpuEpilogue::geglu
              ? product(row, c) * apply(CpuEpilogue::gelu, product(row, d.columns + c))
              : apply(p.layer.epilogue, product(row, c));
      y = p.accumulate ? y + value : value;
    }
  }
  return want;
}

}  // namespace atelier
