// What memory is held: every CPU allocation of libtorch is counted; a GPU's allocator is asked.
#include "slots.h"
#include "js.h"
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <atomic>

namespace waver {
namespace {

constexpr size_t kHeader = 64;  // keeps the 64-byte alignment of c10::alloc_cpu; the first 8 bytes hold the size
std::atomic<int64_t> current{0}, peak{0};

void release(void* data) {
  if (!data) return;
  auto* base = static_cast<uint8_t*>(data) - kHeader;
  current.fetch_sub(static_cast<int64_t>(*reinterpret_cast<size_t*>(base)), std::memory_order_relaxed);
  c10::free_cpu(base);
}
struct Counting final : c10::Allocator {
  at::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &release, at::Device(at::DeviceType::CPU)};
    if (n > SIZE_MAX - kHeader) throw Failure("out_of_memory", "an allocation of " + std::to_string(n) + " bytes");
    auto* base = static_cast<uint8_t*>(c10::alloc_cpu(n + kHeader));
    *reinterpret_cast<size_t*>(base) = n;
    int64_t now = current.fetch_add(static_cast<int64_t>(n), std::memory_order_relaxed) + static_cast<int64_t>(n);
    int64_t before = peak.load(std::memory_order_relaxed);
    while (now > before && !peak.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
    }
    void* data = base + kHeader;
    return {data, data, &release, at::Device(at::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* dest, const void* src, size_t n) const override { default_copy_data(dest, src, n); }
};

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
napi_value EmptyCache(napi_env, napi_callback_info) {
  if (at::globalContext().hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0) c10::getDeviceAllocator(at::kCUDA)->emptyCache();
  return nullptr;
}

}  // namespace

void countAllocations() {
  static auto* counting = new Counting();
  SetCPUAllocator(counting, 100);
}
double allocatedBytes() { return static_cast<double>(current.load()); }

void registerMemory(napi_env env, napi_value e) {
  countAllocations();
  define(env, e, "allocatedBytes", guarded<Allocated>);
  define(env, e, "peakBytes", guarded<Peak>);
  define(env, e, "resetPeakBytes", guarded<ResetPeak>);
  define(env, e, "deviceCount", guarded<DeviceCount>);
  define(env, e, "cudaMemory", guarded<CudaMemory>);
  define(env, e, "emptyCache", guarded<EmptyCache>);
}

}  // namespace waver
