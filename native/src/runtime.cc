// Threads, generators, the heartbeat, what this libtorch can do.
#include "slots.h"
#include "js.h"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <unordered_map>

namespace waver {
namespace {

std::unordered_map<uint32_t, at::Generator>& generators() {
  static auto* g = new std::unordered_map<uint32_t, at::Generator>();
  return *g;
}
uint32_t nextGenerator = 1;

napi_value NewGenerator(napi_env env, napi_callback_info info) {  // (seed as two 32-bit halves, device)
  Args a(env, info);
  auto seed = static_cast<uint64_t>(num(env, a.v[0])) * 4294967296ull + static_cast<uint64_t>(num(env, a.v[1]));
  auto device = parseDevice(str(env, a.v[2]));
  at::Generator g = device.is_cpu() ? at::detail::createCPUGenerator()
                                    : at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  g.set_current_seed(seed);
  generators()[nextGenerator] = std::move(g);
  return mk(env, nextGenerator++);
}
napi_value FreeGenerator(napi_env env, napi_callback_info info) {
  Args a(env, info);
  generators().erase(static_cast<uint32_t>(num(env, a.v[0])));
  return nullptr;
}
napi_value GeneratorState(napi_env env, napi_callback_info info) {  // -> handle of a uint8 tensor
  Args a(env, info);
  return mk(env, put(generatorSlot(num(env, a.v[0])).get_state()));
}
napi_value SetGeneratorState(napi_env env, napi_callback_info info) {
  Args a(env, info);
  generatorSlot(num(env, a.v[0])).set_state(slot(num(env, a.v[1])));
  return nullptr;
}

napi_value SetThreads(napi_env env, napi_callback_info info) {
  Args a(env, info);
  int n = static_cast<int>(num(env, a.v[0]));
  if (n < 1 || n > 4096) throw Failure("op_arguments", "setThreads: a count from 1 up is expected");
  at::set_num_threads(n);
  return nullptr;
}
napi_value GetThreads(napi_env env, napi_callback_info) { return mk(env, at::get_num_threads()); }
napi_value Capability(napi_env env, napi_callback_info) { return mkStr(env, at::get_cpu_capability()); }
napi_value OneDnn(napi_env env, napi_callback_info) {
  return mkBool(env, at::globalContext().hasMKLDNN() && at::globalContext().userEnabledMkldnn());
}
napi_value HasCuda(napi_env env, napi_callback_info) { return mkBool(env, at::globalContext().hasCUDA()); }
napi_value AllowTf32(napi_env env, napi_callback_info info) {
  Args a(env, info);
  at::globalContext().setFloat32MatmulPrecision(flag(env, a.v[0]) ? "high" : "highest");
  return nullptr;
}

// One byte to a descriptor at each interval, from a thread of its own: it goes on while JS is inside an operator.
struct Heartbeat {
  std::mutex lock;
  std::condition_variable wake;
  std::thread thread;
  bool running = false;
  void stop() {
    {
      std::lock_guard<std::mutex> g(lock);
      running = false;
    }
    wake.notify_all();
    if (thread.joinable()) thread.join();
  }
  void start(int fd, int64_t ms) {
    stop();
    running = true;
    thread = std::thread([this, fd, ms] {
      std::unique_lock<std::mutex> g(lock);
      while (running) {
        g.unlock();
        char beat = 1;
        ssize_t n = write(fd, &beat, 1);
        g.lock();
        if (n < 0 && errno != EAGAIN && errno != EINTR) break;  // the reader is gone
        wake.wait_for(g, std::chrono::milliseconds(ms), [this] { return !running; });
      }
    });
  }
};
Heartbeat& heartbeat() {
  static auto* h = new Heartbeat();
  return *h;
}
napi_value StartHeartbeat(napi_env env, napi_callback_info info) {
  Args a(env, info);
  double ms = num(env, a.v[1]);
  if (!(ms >= 1)) throw Failure("op_arguments", "startHeartbeat: an interval of 1 ms or more is expected");
  heartbeat().start(static_cast<int>(num(env, a.v[0])), static_cast<int64_t>(ms));
  return nullptr;
}
napi_value StopHeartbeat(napi_env, napi_callback_info) {
  heartbeat().stop();
  return nullptr;
}

}  // namespace

at::Generator& generatorSlot(double handle) {
  auto it = generators().find(static_cast<uint32_t>(handle));
  if (it == generators().end()) throw Failure("tensor_stale", "a generator that was already disposed was used");
  return it->second;
}

void registerRuntime(napi_env env, napi_value e) {
  define(env, e, "newGenerator", guarded<NewGenerator>);
  define(env, e, "freeGenerator", guarded<FreeGenerator>);
  define(env, e, "generatorState", guarded<GeneratorState>);
  define(env, e, "setGeneratorState", guarded<SetGeneratorState>);
  define(env, e, "setThreads", guarded<SetThreads>);
  define(env, e, "getThreads", guarded<GetThreads>);
  define(env, e, "cpuCapability", guarded<Capability>);
  define(env, e, "oneDnn", guarded<OneDnn>);
  define(env, e, "hasCuda", guarded<HasCuda>);
  define(env, e, "allowTf32", guarded<AllowTf32>);
  define(env, e, "startHeartbeat", guarded<StartHeartbeat>);
  define(env, e, "stopHeartbeat", guarded<StopHeartbeat>);
}

}  // namespace waver
