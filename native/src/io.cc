// Files: read-only mapping of a checkpoint, tensors that point into it, durable renames.
#include "slots.h"
#include "js.h"
#include <ATen/ops/from_blob.h>
#include <ATen/ops/empty.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unordered_map>

namespace waver {
namespace {

struct Mapping {
  uint8_t* data = nullptr;
  size_t size = 0;
  ~Mapping() {
    if (data) munmap(data, size);
  }
};
std::unordered_map<uint32_t, std::shared_ptr<Mapping>>& mappings() {
  static auto* m = new std::unordered_map<uint32_t, std::shared_ptr<Mapping>>();
  return *m;
}
uint32_t nextMapping = 1;

// mapFile(fd) -> id. Private and writable: an in-place operator on a mapped weight changes memory, never the file.
napi_value MapFile(napi_env env, napi_callback_info info) {
  Args a(env, info);
  int fd = static_cast<int>(num(env, a.v[0]));
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) throw Failure("checkpoint_unreadable", "not a regular file");
  auto m = std::make_shared<Mapping>();
  m->size = static_cast<size_t>(st.st_size);
  if (m->size) {
    void* p = mmap(nullptr, m->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) throw Failure("checkpoint_unreadable", std::string("mmap: ") + std::strerror(errno));
    m->data = static_cast<uint8_t*>(p);
  }
  mappings()[nextMapping] = std::move(m);
  return mk(env, nextMapping++);
}
napi_value UnmapFile(napi_env env, napi_callback_info info) {  // the memory stays while tensors point into it
  Args a(env, info);
  mappings().erase(static_cast<uint32_t>(num(env, a.v[0])));
  return nullptr;
}
// fromMapping(id, byteOffset, byteLength, dtype, shape): zero copy where the offset is aligned, else a copy
napi_value FromMapping(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto it = mappings().find(static_cast<uint32_t>(num(env, a.v[0])));
  if (it == mappings().end()) throw Failure("tensor_stale", "the checkpoint file is closed");
  auto m = it->second;
  auto offset = static_cast<size_t>(num(env, a.v[1])), size = static_cast<size_t>(num(env, a.v[2]));
  auto dtype = parseDtype(str(env, a.v[3]));
  auto shape = ints(env, a.v[4]);
  size_t need = c10::elementSize(dtype);
  for (auto s : shape) {
    if (s < 0 || (s && need > SIZE_MAX / static_cast<size_t>(s))) throw Failure("checkpoint_invalid", "shape overflows");
    need *= static_cast<size_t>(s);
  }
  if (need != size || offset > m->size || size > m->size - offset)
    throw Failure("checkpoint_truncated", "a tensor of " + std::to_string(need) + " bytes does not lie inside the file");
  uint8_t* p = m->data + offset;
  auto options = at::TensorOptions().dtype(dtype);
  at::Tensor t;
  if (size == 0 || reinterpret_cast<uintptr_t>(p) % c10::elementSize(dtype) != 0) {
    t = at::empty(shape, options);
    if (size) std::memcpy(t.mutable_data_ptr(), p, size);
  } else {
    t = at::from_blob(p, shape, [m](void*) {}, options);
  }
  return mk(env, put(std::move(t)));
}
// adviseMapping(id, byteOffset, byteLength, soon): of the whole pages of that stretch. Soon: read ahead, without waiting. Else
// they leave this process, and come from the file again when touched; what was changed in them in memory is gone.
napi_value AdviseMapping(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto it = mappings().find(static_cast<uint32_t>(num(env, a.v[0])));
  if (it == mappings().end()) throw Failure("tensor_stale", "the checkpoint file is closed");
  auto& m = *it->second;
  auto offset = static_cast<size_t>(num(env, a.v[1])), size = static_cast<size_t>(num(env, a.v[2]));
  bool soon = flag(env, a.v[3]);
  if (offset > m.size || size > m.size - offset) throw Failure("checkpoint_truncated", "the stretch does not lie inside the file");
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // a page at the edge is shared with a neighbour, which may have changed its part
  size_t from = soon ? offset / page * page : (offset + page - 1) / page * page;
  size_t to = soon ? offset + size : (offset + size) / page * page;
  if (from < to) madvise(m.data + from, to - from, soon ? MADV_WILLNEED : MADV_DONTNEED);  // advice: a refusal changes no result
  return nullptr;
}
napi_value SyncFolder(napi_env env, napi_callback_info info) {
  Args a(env, info);
  auto path = str(env, a.v[0]);
  int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw Failure("write_failed", path + ": " + std::strerror(errno));
  int r = fsync(fd), why = errno;
  close(fd);
  if (r != 0) throw Failure("write_failed", "fsync " + path + ": " + std::strerror(why));
  return nullptr;
}
// writeTensor(fd, handle): its bytes, row-major, without a copy through JS
napi_value WriteTensor(napi_env env, napi_callback_info info) {
  Args a(env, info);
  int fd = static_cast<int>(num(env, a.v[0]));
  at::Tensor t = slot(num(env, a.v[1])).detach().to(at::kCPU).contiguous();
  auto* p = static_cast<const uint8_t*>(t.const_data_ptr());
  size_t left = t.nbytes();
  while (left) {
    ssize_t n = write(fd, p, std::min<size_t>(left, 1u << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw Failure("write_failed", std::string("write: ") + std::strerror(n < 0 ? errno : ENOSPC));
    p += n;
    left -= static_cast<size_t>(n);
  }
  return nullptr;
}

}  // namespace

void registerIo(napi_env env, napi_value e) {
  define(env, e, "mapFile", guarded<MapFile>);
  define(env, e, "unmapFile", guarded<UnmapFile>);
  define(env, e, "fromMapping", guarded<FromMapping>);
  define(env, e, "adviseMapping", guarded<AdviseMapping>);
  define(env, e, "syncFolder", guarded<SyncFolder>);
  define(env, e, "writeTensor", guarded<WriteTensor>);
}

}  // namespace waver
