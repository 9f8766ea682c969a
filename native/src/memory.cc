// Memory: every CPU allocation of libtorch is counted, large freed blocks are reused; a GPU's allocator is asked.
#include "slots.h"
#include "js.h"
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <atomic>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace waver {
namespace {

constexpr size_t kHeader = 64;  // keeps the 64-byte alignment of c10::alloc_cpu; its first 16 bytes hold the two sizes
std::atomic<int64_t> current{0}, peak{0};

struct Header {
  size_t asked, block;
};

// Large blocks are kept for the next tensor of their size. Given back to the system, each new one would cost a page
// fault and a zeroed page per 4 KB: measured, five times the time of a one-pass kernel on 25 MB.
constexpr size_t kCachedFrom = 1u << 20;
struct Cache {
  std::mutex lock;
  std::unordered_map<size_t, std::vector<void*>> blocks;
  size_t held = 0, limit = 1ull << 30;

  static size_t rounded(size_t n) {  // up to an eighth of a power of two: at most 12.5 % is wasted
    size_t step = (1ull << (63 - __builtin_clzll(n))) >> 3;
    return (n + step - 1) / step * step;
  }
  void* take(size_t block) {
    std::lock_guard<std::mutex> g(lock);
    auto it = blocks.find(block);
    if (it == blocks.end() || it->second.empty()) return nullptr;
    void* p = it->second.back();
    it->second.pop_back();
    held -= block;
    return p;
  }
  bool give(void* p, size_t block) {
    std::lock_guard<std::mutex> g(lock);
    if (held + block > limit) return false;
    blocks[block].push_back(p);
    held += block;
    return true;
  }
  void clear() {
    std::lock_guard<std::mutex> g(lock);
    for (auto& [size, list] : blocks)
      for (void* p : list) c10::free_cpu(p);
    blocks.clear();
    held = 0;
  }
};
Cache& cache() {
  static auto* c = new Cache();
  return *c;
}

void release(void* data) {
  if (!data) return;
  auto* base = static_cast<uint8_t*>(data) - kHeader;
  Header h = *reinterpret_cast<Header*>(base);
  current.fetch_sub(static_cast<int64_t>(h.asked), std::memory_order_relaxed);
  if (h.block < kCachedFrom || !cache().give(base, h.block)) c10::free_cpu(base);
}
struct Counting final : c10::Allocator {
  at::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &release, at::Device(at::DeviceType::CPU)};
    if (n > SIZE_MAX / 4) C10_THROW_ERROR(OutOfMemoryError, "an allocation of " + std::to_string(n) + " bytes");
    size_t block = n + kHeader;
    void* base = nullptr;
    if (block >= kCachedFrom) {
      block = Cache::rounded(block);
      base = cache().take(block);
    }
    if (!base) {
      try {
        base = c10::alloc_cpu(block);
      } catch (const c10::Error&) {
        cache().clear();
        try {
          base = c10::alloc_cpu(block);
        } catch (const c10::Error&) {
          C10_THROW_ERROR(OutOfMemoryError, "the machine has no memory left for " + std::to_string(n) + " bytes");
        }
      }
    }
    *static_cast<Header*>(base) = {n, block};
    int64_t now = current.fetch_add(static_cast<int64_t>(n), std::memory_order_relaxed) + static_cast<int64_t>(n);
    int64_t before = peak.load(std::memory_order_relaxed);
    while (now > before && !peak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
    }
    void* data = static_cast<uint8_t*>(base) + kHeader;
    return {data, data, &release, at::Device(at::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* dest, const void* src, size_t n) const override { default_copy_data(dest, src, n); }
};

// Tensors on the device `meta` have shapes and no data: what they would take is counted, which is how a run is planned.
std::atomic<int64_t> outlined{0}, outlinedPeak{0};
void forget(void* size) {
  if (!size) return;
  outlined.fetch_sub(*static_cast<int64_t*>(size), std::memory_order_relaxed);
  delete static_cast<int64_t*>(size);
}
struct Outlining final : c10::Allocator {
  at::DataPtr allocate(size_t n) override {
    auto* size = new int64_t(static_cast<int64_t>(n));
    int64_t now = outlined.fetch_add(*size, std::memory_order_relaxed) + *size;
    int64_t before = outlinedPeak.load(std::memory_order_relaxed);
    while (now > before && !outlinedPeak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
    }
    return {nullptr, size, &forget, at::Device(at::DeviceType::Meta)};
  }
  void copy_data(void*, const void*, size_t) const override {}
};
napi_value Outlined(napi_env env, napi_callback_info) { return mk(env, static_cast<double>(outlined.load())); }
napi_value OutlinedPeak(napi_env env, napi_callback_info) { return mk(env, static_cast<double>(outlinedPeak.load())); }
napi_value ResetOutlinedPeak(napi_env, napi_callback_info) {
  outlinedPeak.store(outlined.load());
  return nullptr;
}

napi_value SetCacheLimit(napi_env env, napi_callback_info info) {
  Args a(env, info);
  double n = num(env, a.v[0]);
  if (!(n >= 0)) throw Failure("op_arguments", "setCacheLimit: bytes from 0 up expected");
  cache().clear();
  cache().limit = static_cast<size_t>(n);
  return nullptr;
}
napi_value CachedBytes(napi_env env, napi_callback_info) { return mk(env, static_cast<double>(cache().held)); }
napi_value Allocated(napi_env env, napi_callback_info) { return mk(env, allocatedBytes()); }
napi_value Peak(napi_env env, napi_callback_info) { return mk(env, static_cast<double>(peak.load())); }
napi_value ResetPeak(napi_env, napi_callback_info) {
  peak.store(current.load());
  return nullptr;
}
napi_value DeviceCount(napi_env env, napi_callback_info) {
  return mk(env, at::globalContext().hasCUDA() ? at::detail::getCUDAHooks().deviceCount() : 0);
}
// cudaMemory(index) -> { allocated, reserved, peak } or null where there is no such device
napi_value CudaMemory(napi_env env, napi_callback_info info) {
  Args a(env, info);
  int index = static_cast<int>(num(env, a.v[0]));
  if (!at::globalContext().hasCUDA() || index < 0 || index >= at::detail::getCUDAHooks().deviceCount()) return mkNull(env);
  at::detail::getCUDAHooks().init();
  auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
  napi_value o;
  napi_create_object(env, &o);
  napi_set_named_property(env, o, "allocated", mk(env, static_cast<double>(stats.allocated_bytes[0].current)));
  napi_set_named_property(env, o, "reserved", mk(env, static_cast<double>(stats.reserved_bytes[0].current)));
  napi_set_named_property(env, o, "peak", mk(env, static_cast<double>(stats.allocated_bytes[0].peak)));
  return o;
}
// deviceMemory(device) -> { free, total } of an accelerator, as its driver counts; null for the CPU
napi_value DeviceMemory(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto device = parseDevice(str(env, a.v[0]));
  if (device.is_cpu() || !at::accelerator::isAccelerator(device.type())) return mkNull(env);
  auto [free, total] = at::accelerator::getMemoryInfo(device.has_index() ? device.index() : static_cast<c10::DeviceIndex>(0));
  napi_value o;
  napi_create_object(env, &o);
  napi_set_named_property(env, o, "free", mk(env, static_cast<double>(free)));
  napi_set_named_property(env, o, "total", mk(env, static_cast<double>(total)));
  return o;
}
napi_value EmptyCache(napi_env, napi_callback_info) {
  cache().clear();
  if (at::globalContext().hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0) c10::getDeviceAllocator(at::kCUDA)->emptyCache();
  return nullptr;
}

}  // namespace

void countAllocations() {
  static auto* counting = new Counting();
  SetCPUAllocator(counting, 100);
  static auto* outlining = new Outlining();
  c10::SetAllocator(at::DeviceType::Meta, outlining, 100);
}
double allocatedBytes() { return static_cast<double>(current.load()); }

void registerMemory(napi_env env, napi_value e) {
  countAllocations();
  define(env, e, "allocatedBytes", guarded<Allocated>);
  define(env, e, "peakBytes", guarded<Peak>);
  define(env, e, "resetPeakBytes", guarded<ResetPeak>);
  define(env, e, "outlinedBytes", guarded<Outlined>);
  define(env, e, "outlinedPeakBytes", guarded<OutlinedPeak>);
  define(env, e, "resetOutlinedPeakBytes", guarded<ResetOutlinedPeak>);
  define(env, e, "deviceCount", guarded<DeviceCount>);
  define(env, e, "cudaMemory", guarded<CudaMemory>);
  define(env, e, "deviceMemory", guarded<DeviceMemory>);
  define(env, e, "setCacheLimit", guarded<SetCacheLimit>);
  define(env, e, "cachedBytes", guarded<CachedBytes>);
  define(env, e, "emptyCache", guarded<EmptyCache>);
}

}  // namespace waver
