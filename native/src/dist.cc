// Process groups over c10d: a store on a named address where the ranks meet, Gloo on CPUs, NCCL where it was compiled in.
#define USE_C10D_GLOO 1
#include "slots.h"
#include "js.h"
#include "table.h"
#include <ATen/core/grad_mode.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <arpa/inet.h>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <netinet/in.h>
#include <sys/socket.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#include <torch/library.h>
#include <unistd.h>

// libtorch before 2.15 knows the one-tensor collectives only by the names that it calls deprecated since.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace waver {
namespace {
using Milliseconds = std::chrono::milliseconds;
using Group = c10::intrusive_ptr<c10d::ProcessGroup>;
using Work = c10::intrusive_ptr<c10d::Work>;

// Never destroyed: threads of Gloo and of the store may still run when the process ends.
using Stores = Table<c10::intrusive_ptr<c10d::Store>>;
Stores& stores() {
  static auto* t = new Stores();
  return *t;
}
Table<Group>& groups() {
  static auto* t = new Table<Group>();
  return *t;
}
// A started collective and the tensors that it reads and writes.
struct Pending {
  Work work;
  std::vector<at::Tensor> tensors;
};
Table<Pending>& pending() {
  static auto* t = new Table<Pending>();
  return *t;
}

// Arguments are checked before anything is started, so what goes wrong from there on is the connection: another rank has
// died, or did not answer in time.
template <class F>
auto talking(const char* what, F f) {
  try {
    return f();
  } catch (const c10::Error& e) {
    throw Failure("rank_lost", std::string(what) + ": " + e.what_without_backtrace());
  } catch (const std::exception& e) {
    throw Failure("rank_lost", std::string(what) + ": " + e.what());
  }
}

// A socket on this address alone: by itself c10d's store listens on all interfaces.
int bound(const std::string& host, uint16_t* port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(*port);
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1)
    throw Failure("op_arguments", "a store listens on an IPv4 address, " + host + " is none");
  if (address.sin_addr.s_addr == INADDR_ANY)
    throw Failure("op_arguments", "a store is open to whoever reaches it: name one address, not 0.0.0.0");
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length = sizeof(address);
  auto* plain = reinterpret_cast<sockaddr*>(&address);
  if (fd < 0 || bind(fd, plain, length) != 0 || getsockname(fd, plain, &length) != 0) {
    int why = errno;
    if (fd >= 0) close(fd);
    throw Failure("rank_lost", "a store cannot listen on " + host + ": " + std::strerror(why));
  }
  *port = ntohs(address.sin_port);
  return fd;
}

// openStore(host, port, isServer, secret, timeoutMs) -> { id, port }; port 0 of a server takes any free one
napi_value OpenStore(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto host = str(env, a.v[0]), secret = str(env, a.v[3]);
  auto port = static_cast<uint16_t>(num(env, a.v[1]));
  c10d::TCPStoreOptions options;
  options.isServer = flag(env, a.v[2]);
  options.timeout = Milliseconds(static_cast<int64_t>(num(env, a.v[4])));
  options.waitWorkers = false;
  options.useLibUV = false;  // Bun exports stubs of libuv that abort
  if (options.isServer) options.masterListenFd = bound(host, &port);
  options.port = port;
  auto store = talking("the store of a group", [&] { return c10::make_intrusive<c10d::TCPStore>(host, options); });
  napi_value result;
  napi_create_object(env, &result);
  // c10d authenticates nobody: keys that cannot be guessed keep strangers on this machine out of the group's way
  auto id = stores().add(c10::make_intrusive<c10d::PrefixStore>(secret, store));
  napi_set_named_property(env, result, "id", mk(env, id));
  napi_set_named_property(env, result, "port", mk(env, port));
  return result;
}
napi_value CloseStore(napi_env env, napi_callback_info info) {
  Args a(env, info);
  stores().items.erase(static_cast<uint32_t>(num(env, a.v[0])));
  return nullptr;
}
napi_value StoreSet(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto& store = stores().at(num(env, a.v[0]), "the store");
  auto key = str(env, a.v[1]), value = str(env, a.v[2]);
  talking("the store of a group", [&] { store->set(key, value); });
  return nullptr;
}
napi_value StoreGet(napi_env env, napi_callback_info info) {  // waits until the key is there, at most the timeout
  Args a(env, info);
  auto& store = stores().at(num(env, a.v[0]), "the store");
  auto key = str(env, a.v[1]);
  Milliseconds timeout(static_cast<int64_t>(num(env, a.v[2])));
  return mkStr(env, talking("the store of a group", [&] {
                 store->wait({key}, timeout);
                 return store->get_to_str(key);
               }));
}
napi_value StoreHas(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto& store = stores().at(num(env, a.v[0]), "the store");
  auto key = str(env, a.v[1]);
  return mkBool(env, talking("the store of a group", [&] { return store->check({key}); }));
}
napi_value StoreDelete(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto& store = stores().at(num(env, a.v[0]), "the store");
  auto key = str(env, a.v[1]);
  return mkBool(env, talking("the store of a group", [&] { return store->deleteKey(key); }));
}

// openGroup(store, name, rank, size, device, host, timeoutMs) -> id. Blocks until every rank has come.
napi_value OpenGroup(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto& root = stores().at(num(env, a.v[0]), "the store");
  auto name = str(env, a.v[1]), host = str(env, a.v[5]);
  int rank = static_cast<int>(num(env, a.v[2])), size = static_cast<int>(num(env, a.v[3]));
  auto device = parseDevice(str(env, a.v[4]));
  Milliseconds timeout(static_cast<int64_t>(num(env, a.v[6])));
  if (c10d::is_process_group_registered(name)) throw Failure("op_arguments", "a group " + name + " is open already");
#ifndef USE_C10D_NCCL
  if (!device.is_cpu())
    throw Failure("op_arguments", "this build has no NCCL: ranks on " + device.str() + " need a CUDA libtorch and the headers of CUDA and NCCL");
#endif
  auto group = talking("a group of ranks", [&] {
    auto store = c10::make_intrusive<c10d::PrefixStore>(name, root);
    auto made = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
    made->setBackend(c10::DeviceType::CPU, c10d::ProcessGroup::BackendType::GLOO,
                     c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options));
    made->setDefaultBackend(c10d::ProcessGroup::BackendType::GLOO);
#ifdef USE_C10D_NCCL
    if (device.is_cuda()) {
      auto nccl = c10d::ProcessGroupNCCL::Options::create();
      nccl->timeout = timeout;
      made->setBoundDeviceId(device);
      made->setBackend(c10::DeviceType::CUDA, c10d::ProcessGroup::BackendType::NCCL,
                       c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, nccl));
      made->setDefaultBackend(c10d::ProcessGroup::BackendType::NCCL);
    }
#endif
    made->setGroupName(name);
    return made;
  });
  c10d::register_process_group(name, group);  // holds it weakly: the table keeps it alive
  return mk(env, groups().add(std::move(group)));
}
napi_value CloseGroup(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto found = groups().items.find(static_cast<uint32_t>(num(env, a.v[0])));
  if (found == groups().items.end()) return nullptr;
  c10d::unregister_process_group(found->second->getGroupName());
  groups().items.erase(found);
  return nullptr;
}

at::Tensor& dense(napi_env env, napi_value v) {
  at::Tensor& t = slot(num(env, v));
  if (!t.is_contiguous()) throw Failure("op_arguments", "a collective takes contiguous tensors, got " + describe(t));
  return t;
}
// What is only moved is moved as bytes, rows first: any dtype will do.
at::Tensor asBytes(const at::Tensor& t) {
  int64_t rows = t.dim() == 0 ? 1 : t.size(0);
  int64_t bytes = static_cast<int64_t>(t.nbytes());
  return at::from_blob(t.data_ptr(), {rows, rows == 0 ? 0 : bytes / rows}, at::TensorOptions().dtype(at::kByte).device(t.device()));
}
napi_value started(napi_env env, Work work, std::vector<at::Tensor> tensors) {
  return mk(env, pending().add({std::move(work), std::move(tensors)}));
}
c10d::ReduceOp reduction(const std::string& name) {
  if (name == "sum") return c10d::ReduceOp::SUM;
  if (name == "max") return c10d::ReduceOp::MAX;
  if (name == "min") return c10d::ReduceOp::MIN;
  throw Failure("op_arguments", "ranks reduce by sum, max or min, not by " + name);
}

// Collectives as operators: they pass through the one call like all others, and have gradients.
at::Tensor allReduce(const at::Tensor& x, std::string by, int64_t id) {
  TORCH_CHECK(!(at::GradMode::is_enabled() && x.requires_grad()), "all_reduce has no gradient here: reduce_scatter and all_gather have");
  auto& group = groups().at(static_cast<double>(id), "the group");
  std::vector<at::Tensor> list{x.detach().clone(at::MemoryFormat::Contiguous)};
  c10d::AllreduceOptions options;
  options.reduceOp = reduction(by);
  talking("all_reduce", [&] { group->allreduce(list, options)->wait(); });
  return list[0];
}
std::vector<int64_t> withRows(const at::Tensor& x, int64_t rows) {
  auto shape = x.sizes().vec();
  shape[0] = rows;
  return shape;
}
at::Tensor gathered(const at::Tensor& x, int64_t id) {
  auto& group = groups().at(static_cast<double>(id), "the group");
  TORCH_CHECK(x.dim() > 0, "all_gather takes rows, got a number");
  auto in = x.contiguous(), out = at::empty(withRows(x, x.size(0) * group->getSize()), x.options());
  auto to = asBytes(out).flatten(), from = asBytes(in).flatten();
  talking("all_gather", [&] { group->_allgather_base(to, from)->wait(); });
  return out;
}
at::Tensor scattered(const at::Tensor& x, int64_t id) {
  auto& group = groups().at(static_cast<double>(id), "the group");
  TORCH_CHECK(x.dim() > 0 && x.size(0) % group->getSize() == 0, "reduce_scatter: [", x.sizes(), "] does not divide by ", group->getSize(), " ranks");
  auto in = x.contiguous(), out = at::empty(withRows(x, x.size(0) / group->getSize()), x.options());
  talking("reduce_scatter", [&] { group->_reduce_scatter_base(out, in, c10d::ReduceScatterOptions())->wait(); });
  return out;
}
at::Tensor exchanged(const at::Tensor& x, std::vector<int64_t> receives, std::vector<int64_t> sends, int64_t id) {
  auto& group = groups().at(static_cast<double>(id), "the group");
  int64_t in = 0, out = 0;
  for (auto n : sends) in += n;
  for (auto n : receives) out += n;
  auto size = static_cast<size_t>(group->getSize());
  TORCH_CHECK(x.dim() > 0 && sends.size() == size && receives.size() == size && in == x.size(0),
              "all_to_all: [", at::IntArrayRef(sends), "] rows to each of ", size, " ranks, of [", x.sizes(), "]");
  auto dense = x.contiguous(), made = at::empty(withRows(x, out), x.options());
  auto to = asBytes(made), from = asBytes(dense);
  talking("all_to_all", [&] { group->alltoall_base(to, from, receives, sends)->wait(); });
  return made;
}
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
struct AllGather : torch::autograd::Function<AllGather> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t group) {
    ctx->saved_data["group"] = group;
    return gathered(x, group);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {scattered(grads[0], ctx->saved_data["group"].toInt()), at::Tensor()};
  }
};
struct ReduceScatter : torch::autograd::Function<ReduceScatter> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t group) {
    ctx->saved_data["group"] = group;
    return scattered(x, group);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {gathered(grads[0], ctx->saved_data["group"].toInt()), at::Tensor()};
  }
};
struct AllToAll : torch::autograd::Function<AllToAll> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, std::vector<int64_t> receives, std::vector<int64_t> sends, int64_t group) {
    ctx->saved_data["group"] = group;
    ctx->saved_data["receives"] = receives;
    ctx->saved_data["sends"] = sends;
    return exchanged(x, receives, sends, group);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& saved = ctx->saved_data;
    return {exchanged(grads[0], saved["sends"].toIntVector(), saved["receives"].toIntVector(), saved["group"].toInt()), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Each returns the number of a started work, for `waitWork`.
napi_value Broadcast(napi_env env, napi_callback_info info) {  // (group, tensor, root)
  Args a(env, info);
  auto& group = groups().at(num(env, a.v[0]), "the group");
  at::Tensor t = dense(env, a.v[1]);
  c10d::BroadcastOptions options;
  options.rootRank = static_cast<int64_t>(num(env, a.v[2]));
  std::vector<at::Tensor> list{asBytes(t)};
  return started(env, talking("broadcast", [&] { return group->broadcast(list, options); }), {t, list[0]});
}
napi_value Send(napi_env env, napi_callback_info info) {  // (group, tensor, to, tag)
  Args a(env, info);
  auto& group = groups().at(num(env, a.v[0]), "the group");
  at::Tensor t = dense(env, a.v[1]);
  std::vector<at::Tensor> list{asBytes(t)};
  int to = static_cast<int>(num(env, a.v[2])), tag = static_cast<int>(num(env, a.v[3]));
  return started(env, talking("send", [&] { return group->send(list, to, tag); }), {t, list[0]});
}
napi_value Receive(napi_env env, napi_callback_info info) {  // (group, tensor, from, tag)
  Args a(env, info);
  auto& group = groups().at(num(env, a.v[0]), "the group");
  at::Tensor t = dense(env, a.v[1]);
  std::vector<at::Tensor> list{asBytes(t)};
  int from = static_cast<int>(num(env, a.v[2])), tag = static_cast<int>(num(env, a.v[3]));
  return started(env, talking("receive", [&] { return group->recv(list, from, tag); }), {t, list[0]});
}
napi_value Barrier(napi_env env, napi_callback_info info) {  // (group)
  Args a(env, info);
  auto& group = groups().at(num(env, a.v[0]), "the group");
  return started(env, talking("barrier", [&] { return group->barrier(); }), {});
}
napi_value WaitWork(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto id = num(env, a.v[0]);
  Pending p = pending().at(id, "the collective");
  pending().items.erase(static_cast<uint32_t>(id));
  talking("a collective", [&] { p.work->wait(); });
  return nullptr;
}
napi_value WorkIsDone(napi_env env, napi_callback_info info) {
  Args a(env, info);
  return mkBool(env, pending().at(num(env, a.v[0]), "the collective").work->isCompleted());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(waver, m) {
  m.def("all_reduce(Tensor x, str by, int group) -> Tensor", allReduce);
  m.def("all_gather(Tensor x, int group) -> Tensor", [](const at::Tensor& x, int64_t group) { return AllGather::apply(x, group); });
  m.def("reduce_scatter(Tensor x, int group) -> Tensor", [](const at::Tensor& x, int64_t group) { return ReduceScatter::apply(x, group); });
  m.def("all_to_all(Tensor x, int[] receives, int[] sends, int group) -> Tensor",
        [](const at::Tensor& x, std::vector<int64_t> receives, std::vector<int64_t> sends, int64_t group) {
          return AllToAll::apply(x, std::move(receives), std::move(sends), group);
        });
}

void registerDist(napi_env env, napi_value e) {
  define(env, e, "openStore", guarded<OpenStore>);
  define(env, e, "closeStore", guarded<CloseStore>);
  define(env, e, "storeSet", guarded<StoreSet>);
  define(env, e, "storeGet", guarded<StoreGet>);
  define(env, e, "storeHas", guarded<StoreHas>);
  define(env, e, "storeDelete", guarded<StoreDelete>);
  define(env, e, "openGroup", guarded<OpenGroup>);
  define(env, e, "closeGroup", guarded<CloseGroup>);
  define(env, e, "broadcast", guarded<Broadcast>);
  define(env, e, "send", guarded<Send>);
  define(env, e, "receive", guarded<Receive>);
  define(env, e, "barrier", guarded<Barrier>);
  define(env, e, "waitWork", guarded<WaitWork>);
  define(env, e, "workIsDone", guarded<WorkIsDone>);
}

}  // namespace waver
