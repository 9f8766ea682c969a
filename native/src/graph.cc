// Work of an accelerator, recorded once and replayed, through ATen's interface for all devices. A CPU has nothing to record.
#include "slots.h"
#include "js.h"
#include "table.h"
#if __has_include(<ATen/accelerator/Graph.h>)
#include <ATen/accelerator/Graph.h>
#define WAVER_GRAPHS 1
#endif
#include <c10/core/DeviceGuard.h>
#include <memory>

namespace waver {
namespace {

#ifdef WAVER_GRAPHS
struct Graph {
  c10::Device device;
  std::unique_ptr<at::accelerator::Graph> work;
};
// Never destroyed: a driver may be gone before the process is.
Table<Graph>& graphs() {
  static auto* t = new Table<Graph>();
  return *t;
}
Graph& graph(double id) { return graphs().at(id, "the recording"); }
#endif

napi_value CanRecord(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto device = parseDevice(str(env, a.v[0]));
#ifdef WAVER_GRAPHS
  return mkBool(env, !device.is_cpu() && at::has_graph_impl(device.type()));
#else
  return mkBool(env, false);  // this libtorch has no such interface
#endif
}
#ifdef WAVER_GRAPHS
// beginRecording(device) -> id: operators of the current stream, which is not the device's own, are recorded and not run
napi_value BeginRecording(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto device = parseDevice(str(env, a.v[0]));
  c10::DeviceGuard here(device);
  auto work = std::make_unique<at::accelerator::Graph>();
  work->capture_begin({0, 0}, at::GraphCaptureMode::ThreadLocal);
  return mk(env, graphs().add({device, std::move(work)}));
}
napi_value EndRecording(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto& [device, work] = graph(num(env, a.v[0]));
  c10::DeviceGuard here(device);
  work->capture_end();
  return nullptr;
}
napi_value Replay(napi_env env, napi_callback_info info) {  // in the current stream
  Args a(env, info);
  auto& [device, work] = graph(num(env, a.v[0]));
  c10::DeviceGuard here(device);
  work->replay();
  return nullptr;
}
napi_value CloseRecording(napi_env env, napi_callback_info info) {
  Args a(env, info);
  graphs().items.erase(static_cast<uint32_t>(num(env, a.v[0])));
  return nullptr;
}
#endif

}  // namespace

void registerGraph(napi_env env, napi_value e) {
  define(env, e, "canRecord", guarded<CanRecord>);
#ifdef WAVER_GRAPHS
  define(env, e, "beginRecording", guarded<BeginRecording>);
  define(env, e, "endRecording", guarded<EndRecording>);
  define(env, e, "replay", guarded<Replay>);
  define(env, e, "closeRecording", guarded<CloseRecording>);
#endif
}

}  // namespace waver
