// SPDX-License-Identifier: Apache-2.0
// The cast kernels there are, one list for the GPU's launches and for tests on the CPU.
//
//   WithCastKernel(path, task, [&](auto kernel) { return decltype(kernel)::Body; });
#pragma once

#include <cstdint>

#include "gpu/kernels/gather_cast.h"

namespace devmem {

template <lane::Type kFrom, lane::Type kTo, bool kFloat>
struct CastRows {
  static DEVMEM_LANE void Body(const CastTask& task, lane::CastConstants* shared) {
    lane::CastRowsBody<kFrom, kTo, kFloat>(task, shared);
  }
};
template <int kChannels, lane::Type kTo, bool kFloat>
struct CastPlanes {
  static DEVMEM_LANE void Body(const CastTask& task, lane::CastConstants* shared) {
    lane::CastPlanesBody<kChannels, kTo, kFloat>(task, shared);
  }
};
struct CastAny {
  static DEVMEM_LANE void Body(const CastTask& task, lane::CastConstants* shared) { lane::CastAnyBody(task, shared); }
};

namespace internal {

// NOLINTBEGIN(bugprone-branch-clone): where a source is not proved in float, both are one kernel

template <template <lane::Type, bool> typename Kernel, typename F>
auto WithResult(uint8_t to, bool in_float, F&& f) {
  switch (to) {
    case lane::kF16:
      return in_float ? f(Kernel<lane::kF16, true>()) : f(Kernel<lane::kF16, false>());
    case lane::kBF16:
      return in_float ? f(Kernel<lane::kBF16, true>()) : f(Kernel<lane::kBF16, false>());
    default:
      return in_float ? f(Kernel<lane::kF32, true>()) : f(Kernel<lane::kF32, false>());
  }
}

// NOLINTEND(bugprone-branch-clone)

template <lane::Type kFrom>
struct RowsFrom {
  // Only values of 8 and 16 bits are proved to do in float.
  template <lane::Type kTo, bool kFloat>
  using Kernel = CastRows<kFrom, kTo, kFloat && lane::SizeOf(kFrom) <= 2>;
};
template <int kChannels>
struct PlanesOf {
  template <lane::Type kTo, bool kFloat>
  using Kernel = CastPlanes<kChannels, kTo, kFloat>;
};

}  // namespace internal

// Calls f with an object of the kernel's type, and returns what it returns.
template <typename F>
auto WithCastKernel(const CastPath& path, const CastTask& task, F&& f) {
  using internal::PlanesOf;
  using internal::RowsFrom;
  using internal::WithResult;
  if (path.kernel == CastPath::Kernel::kPlanes) {
    return task.channels == 3 ? WithResult<PlanesOf<3>::Kernel>(task.to, path.in_float, f)
                              : WithResult<PlanesOf<4>::Kernel>(task.to, path.in_float, f);
  }
  if (path.kernel == CastPath::Kernel::kRows) {
    switch (task.from) {
      case lane::kU8:
        return WithResult<RowsFrom<lane::kU8>::Kernel>(task.to, path.in_float, f);
      case lane::kU16:
        return WithResult<RowsFrom<lane::kU16>::Kernel>(task.to, path.in_float, f);
      case lane::kI32:
        return WithResult<RowsFrom<lane::kI32>::Kernel>(task.to, path.in_float, f);
      case lane::kF16:
        return WithResult<RowsFrom<lane::kF16>::Kernel>(task.to, path.in_float, f);
      case lane::kBF16:
        return WithResult<RowsFrom<lane::kBF16>::Kernel>(task.to, path.in_float, f);
      case lane::kF32:
        return WithResult<RowsFrom<lane::kF32>::Kernel>(task.to, path.in_float, f);
      case lane::kF64:
        return WithResult<RowsFrom<lane::kF64>::Kernel>(task.to, path.in_float, f);
      default:
        break;
    }
  }
  return f(CastAny());
}

}  // namespace devmem
