// A fixed-size array of plain numbers, uninitialised unless made by Zeros().
//
// std::vector would write every element twice (once zero, once the value), and
// could not hand its buffer to NumPy. Zeros() uses calloc, so that the
// operating system zeroes a page of a large array when it is first touched, and
// not before. InHugePages() and UseHugePages() make first touches cheaper for
// an array of which most pages will be touched.

#ifndef CSRC_ARRAY_H_
#define CSRC_ARRAY_H_

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>

namespace isoprefill {

template <typename T>
class Array {
  static_assert(std::is_trivial_v<T>, "Array does not run constructors");

 public:
  Array() = default;
  explicit Array(int64_t size)
      : Array(size,
              [](size_t n) { return Whole(std::malloc(n * sizeof(T))); }) {}

  static Array Zeros(int64_t size) {
    return Array(size,
                 [](size_t n) { return Whole(std::calloc(n, sizeof(T))); });
  }

  // Uninitialised; from the size of a huge page on it lies in whole ones. An
  // array that does not begin at the boundary of one would have up to two in
  // small pages. By malloc, which reuses memory that was touched before;
  // aligned_alloc maps fresh pages at every call.
  static Array InHugePages(int64_t size) {
    if (size < int64_t{kHugePage / sizeof(T)}) return Array(size);
    return Array(size, [](size_t n) {
      const size_t bytes = RoundUp(n * sizeof(T), kHugePage);
      void* const block = std::malloc(bytes + kHugePage);
      if (block == nullptr) return Pointer();
      const uintptr_t begin =
          RoundUp(reinterpret_cast<uintptr_t>(block), kHugePage);
      AdviseHugePages(reinterpret_cast<void*>(begin), bytes);
      return Pointer(reinterpret_cast<T*>(begin), Free{block});
    });
  }

  int64_t size() const { return size_; }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](int64_t i) { return data_.get()[i]; }
  const T& operator[](int64_t i) const { return data_.get()[i]; }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }

  // A hint without other effect: the operating system backs the array by huge
  // pages where it can.
  void UseHugePages() {
    constexpr uintptr_t kPage = 4096;
    const uintptr_t begin = RoundUp(reinterpret_cast<uintptr_t>(data()), kPage);
    const uintptr_t end = reinterpret_cast<uintptr_t>(this->end());
    if (end < begin + kHugePage) return;
    AdviseHugePages(reinterpret_cast<void*>(begin),
                    (end - begin) / kPage * kPage);
  }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;

  static constexpr uintptr_t RoundUp(uintptr_t value, uintptr_t to) {
    return (value + to - 1) / to * to;
  }

  static void AdviseHugePages([[maybe_unused]] void* begin,
                              [[maybe_unused]] size_t bytes) {
#if defined(__linux__)
    madvise(begin, bytes, MADV_HUGEPAGE);
#endif
  }

  // Frees the block of memory that the array lies in.
  struct Free {
    void* block = nullptr;
    void operator()(T*) const { std::free(block); }
  };
  using Pointer = std::unique_ptr<T, Free>;

  static Pointer Whole(void* block) {
    return Pointer(static_cast<T*>(block), Free{block});
  }

  template <typename Allocate>
  Array(int64_t size, Allocate allocate) : size_(size) {
    if (size < 0 || static_cast<uint64_t>(size) >
                        std::numeric_limits<size_t>::max() / 2 / sizeof(T)) {
      throw std::bad_alloc();
    }
    // One element at least, so that data() is never null.
    data_ = allocate(size == 0 ? 1 : static_cast<size_t>(size));
    if (data_ == nullptr) throw std::bad_alloc();
  }

  Pointer data_;
  int64_t size_ = 0;
};

}  // namespace isoprefill

#endif  // CSRC_ARRAY_H_
