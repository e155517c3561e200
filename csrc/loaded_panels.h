// Panels as products read them: where they are, or loaded, a block's at a time.

#ifndef CSRC_LOADED_PANELS_H_
#define CSRC_LOADED_PANELS_H_

#include <cstdint>
#include <type_traits>

#include "csrc/aligned_bytes.h"
#include "csrc/bfloat16.h"
#include "csrc/decoder_kernels.h"
#include "csrc/packed_weights.h"

namespace isoprefill {

// Loads panels of one length that are all of so many parts.
template <typename Element>
class LoadedPanels {
 public:
  LoadedPanels(const DecoderKernels<Element>& kernels, int64_t inner,
               int64_t parts)
      : kernels_(kernels),
        inner_(inner),
        scaled_(parts == kScaledIntegers),
        loads_(scaled_ || (kernels.load != nullptr && parts == 0)),
        parts_(scaled_ ? 0 : parts),
        loaded_bytes_(kernels.load != nullptr && loads_
                          ? kernels.loaded_bytes(inner)
                          : 0),
        wide_bytes_(scaled_ ? PanelSize(inner) * int64_t{sizeof(float)} : 0),
        loaded_(kernels.block_panels * loaded_bytes_),
        wide_(kernels.block_panels * wide_bytes_) {}

  // Whether panels must be loaded.
  bool loads() const { return loads_; }
  // Of the panels that are multiplied, once they are loaded.
  int64_t parts() const { return parts_; }
  const char* data() { return loaded_.data(); }

  // Loads some panels, a block's at most, in place of the last. If they are
  // multiplied elsewhere than where they were, `panels` says where.
  void Load(const Element** panels, int64_t count) {
    if (!loads_) return;
    if constexpr (std::is_same_v<Element, float>) {
      if (scaled_) return LoadScaled(panels, count);
    }
    for (int64_t i = 0; i < count; ++i) {
      kernels_.load(panels[i], inner_, loaded_.data() + i * loaded_bytes_);
    }
  }

 private:
  void LoadScaled(const float** panels, int64_t count) {
    parts_ = kernels_.split_in_two == nullptr ? 0 : 2;
    const auto place = [&](int64_t i) {
      return wide_.data() + i * wide_bytes_;
    };
    for (int64_t i = 0; parts_ == 2 && i < count; ++i) {
      if (!kernels_.split_in_two(reinterpret_cast<const ScaledRun*>(panels[i]),
                                 inner_,
                                 reinterpret_cast<Bfloat16*>(place(i)))) {
        parts_ = 0;  // all or none, as they are multiplied together
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto* scaled = reinterpret_cast<const ScaledRun*>(panels[i]);
      auto* floats = reinterpret_cast<float*>(place(i));
      if (parts_ == 0 && kernels_.load_scaled != nullptr) {
        kernels_.load_scaled(scaled, inner_, floats,
                             loaded_.data() + i * loaded_bytes_);
      } else if (parts_ == 0) {
        kernels_.widen(scaled, inner_, floats);
      }
      panels[i] = floats;
    }
  }

  const DecoderKernels<Element>& kernels_;
  const int64_t inner_;
  const bool scaled_;
  const bool loads_;
  int64_t parts_;
  const int64_t loaded_bytes_;
  const int64_t wide_bytes_;
  AlignedBytes loaded_;
  AlignedBytes wide_;
};

}  // namespace isoprefill

#endif  // CSRC_LOADED_PANELS_H_
