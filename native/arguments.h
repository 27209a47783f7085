// Checks of what JavaScript passes. Nothing is coerced, so no user code runs in between, and nothing is touched before
// every argument has been checked.
#ifndef MMAPKV_ARGUMENTS_H
#define MMAPKV_ARGUMENTS_H

#include <napi.h>

#include <string>
#include <vector>

#include "environment.h"

namespace mmapkv {

// Integers that a double holds exactly.
constexpr uint64_t kMaximumInteger = (uint64_t{1} << 53) - 1;
// An hour: longer waits are a mistake, and this keeps the arithmetic with nanoseconds far from its limits.
constexpr double kMaximumMilliseconds = 3600.0 * 1000.0;

// These do nothing when JavaScript cannot run any more (a worker that is being terminated).
void ThrowTypeError(napi_env env, const std::string& message);
void ThrowRangeError(napi_env env, const std::string& message);
void ThrowSystemError(napi_env env, const Outcome& outcome);
// { code, errno, syscall }; null when it cannot be made.
napi_value SystemError(napi_env env, const Outcome& outcome);

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

// Reads the arguments of one call. The first bad one throws; all later reads then answer 0 and Failed() is true.
class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : Arguments(info.Env(), info.Data(), info, nullptr) {}
  // For the hot functions, which take their arguments without a CallbackInfo.
  template <size_t N>
  Arguments(napi_env env, napi_callback_info info, napi_value (&values)[N]) : env_(env), values_(values) {
    size_t count = N;
    void* data = nullptr;
    napi_get_cb_info(env, info, &count, values, nullptr, &data);  // what was not passed is undefined
    environment_ = static_cast<Environment*>(data);
  }

  bool Failed() const { return failed_; }
  Environment* Owner() const { return environment_; }

  int File(size_t index, const char* call);
  uint64_t Integer(size_t index, const char* name, uint64_t minimum, uint64_t maximum);
  // A 32-bit word, written as signed or unsigned.
  uint32_t Word(size_t index, const char* name);
  bool Boolean(size_t index, const char* name);
  // Milliseconds, fractions allowed, in nanoseconds.
  int64_t Duration(size_t index, const char* name);
  std::string Path(size_t index);
  std::string Text(size_t index, const char* name);
  Bytes ByteView(size_t index, const char* name);
  // The aligned 32-bit word at the offset in argument `index + 1` of the ArrayBuffer in argument `index`. *record is set
  // when that is a mapped one.
  uint32_t* FutexWord(size_t index, MappingRecord** record = nullptr);
  // A buffer made by `map`, to be written to.
  MappingRecord* WritableMapping(size_t index);
  // An aligned 32-bit word of that, by its offset.
  uint32_t* MappedWord(size_t index, const char* name, MappingRecord* record);
  // An array of buffers made by `map`; none when it is not passed.
  std::vector<MappingRecord*> Mappings(size_t index, const char* name);
  // A buffer made by `map`, and the range of it in the next two arguments.
  MappingRecord* MappedRange(size_t index, size_t* offset, size_t* length);

  void TypeError(const std::string& message);
  void RangeError(const std::string& message);

 private:
  Arguments(napi_env env, void* data, const Napi::CallbackInfo& info, std::nullptr_t);
  bool Number(size_t index, const char* name, double* number);
  bool ArrayBuffer(size_t index, Bytes* bytes) { return ArrayBuffer(values_[index], bytes); }
  bool ArrayBuffer(napi_value value, Bytes* bytes);

  static constexpr size_t kMaximum = 9;
  napi_env env_;
  Environment* environment_ = nullptr;
  napi_value copied_[kMaximum] = {};
  napi_value* values_ = copied_;
  bool failed_ = false;
};

}  // namespace mmapkv

#endif
