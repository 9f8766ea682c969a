// The slot table: a JS number names a tensor as index + generation * 2^24, so a stale one can never name another tensor.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/core/Generator.h>
#include <string>

namespace waver {

double put(at::Tensor t);          // 0 for an undefined tensor
at::Tensor& slot(double handle);   // throws Failure("tensor_stale")
bool alive(double handle);
bool drop(double handle);          // false when it was gone already
size_t liveSlots();

at::Generator& generatorSlot(double handle);
at::Device parseDevice(const std::string& name);
at::ScalarType parseDtype(const std::string& name);
std::string describe(const at::Tensor& t);  // float32[2,3]

void countAllocations();
double allocatedBytes();

}  // namespace waver
