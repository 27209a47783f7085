#include "arguments.h"

#include <cmath>
#include <cstring>

namespace mmapkv {

namespace {

using Creator = napi_status (*)(napi_env, napi_value, napi_value, napi_value*);

// Errors are made and thrown by hand: Napi::Error aborts the process when the worker is being terminated meanwhile.
napi_value MakeError(napi_env env, Creator create, const std::string& message) {
  napi_value text;
  napi_value error;
  if (napi_create_string_utf8(env, message.data(), message.size(), &text) != napi_ok) return nullptr;
  if (create(env, nullptr, text, &error) != napi_ok) return nullptr;
  return error;
}

void Throw(napi_env env, napi_value error) {
  if (error != nullptr) napi_throw(env, error);
}

void SetText(napi_env env, napi_value object, const char* name, const char* text) {
  napi_value value;
  if (napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value) == napi_ok) napi_set_named_property(env, object, name, value);
}

std::string Shown(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", number);
  return text;
}

}  // namespace

void ThrowTypeError(napi_env env, const std::string& message) { Throw(env, MakeError(env, napi_create_type_error, message)); }

void ThrowRangeError(napi_env env, const std::string& message) { Throw(env, MakeError(env, napi_create_range_error, message)); }

napi_value SystemError(napi_env env, const Outcome& outcome) {
  const char* name = ErrorName(outcome.error);
  napi_value error = MakeError(env, napi_create_error, std::string(name) + ": " + std::strerror(outcome.error) + ", " + outcome.call);
  if (error == nullptr) return nullptr;
  SetText(env, error, "code", name);
  SetText(env, error, "syscall", outcome.call);
  napi_value number;
  if (napi_create_int32(env, -outcome.error, &number) == napi_ok) napi_set_named_property(env, error, "errno", number);
  return error;
}

void ThrowSystemError(napi_env env, const Outcome& outcome) { Throw(env, SystemError(env, outcome)); }

Arguments::Arguments(napi_env env, void* data, const Napi::CallbackInfo& info, std::nullptr_t)
    : env_(env), environment_(static_cast<Environment*>(data)) {
  for (size_t index = 0; index < kMaximum; index++) copied_[index] = info[index];
}

void Arguments::TypeError(const std::string& message) {
  if (!failed_) ThrowTypeError(env_, message);
  failed_ = true;
}

void Arguments::RangeError(const std::string& message) {
  if (!failed_) ThrowRangeError(env_, message);
  failed_ = true;
}

bool Arguments::Number(size_t index, const char* name, double* number) {
  if (failed_) return false;
  if (napi_get_value_double(env_, values_[index], number) == napi_ok) return true;
  TypeError(std::string(name) + " must be a number");
  return false;
}

uint64_t Arguments::Integer(size_t index, const char* name, uint64_t minimum, uint64_t maximum) {
  double number;
  if (!Number(index, name, &number)) return 0;
  // Written so that NaN fails too.
  if (number >= static_cast<double>(minimum) && number <= static_cast<double>(maximum) && number == std::floor(number)) {
    return static_cast<uint64_t>(number);
  }
  RangeError(std::string(name) + " must be an integer from " + std::to_string(minimum) + " to " + std::to_string(maximum) + ": " + name +
             "=" + Shown(number));
  return 0;
}

uint32_t Arguments::Word(size_t index, const char* name) {
  double number;
  if (!Number(index, name, &number)) return 0;
  if (number >= INT32_MIN && number <= UINT32_MAX && number == std::floor(number)) {
    return static_cast<uint32_t>(static_cast<int64_t>(number));
  }
  RangeError(std::string(name) + " must be a 32-bit integer: " + name + "=" + Shown(number));
  return 0;
}

int64_t Arguments::Duration(size_t index, const char* name) {
  double number;
  if (!Number(index, name, &number)) return 0;
  if (number >= 0 && number <= kMaximumMilliseconds) return static_cast<int64_t>(number * static_cast<double>(kNanosecondsPerMillisecond));
  RangeError(std::string(name) + " must be from 0 to 3600000 ms: " + name + "=" + Shown(number));
  return 0;
}

bool Arguments::Boolean(size_t index, const char* name) {
  if (failed_) return false;
  bool value = false;
  if (napi_get_value_bool(env_, values_[index], &value) != napi_ok) TypeError(std::string(name) + " must be a boolean");
  return value;
}

int Arguments::File(size_t index, const char* call) {
  const int fd = static_cast<int>(Integer(index, "fd", 0, INT32_MAX));
  if (failed_) return -1;
  if (environment_->HasFile(fd)) return fd;
  // Never opened here, or closed already: by now the number may belong to someone else.
  ThrowSystemError(env_, mmapkv::Failed(EBADF, call));
  failed_ = true;
  return -1;
}

std::string Arguments::Text(size_t index, const char* name) {
  if (failed_) return "";
  size_t length = 0;
  if (napi_get_value_string_utf8(env_, values_[index], nullptr, 0, &length) != napi_ok) {
    TypeError(std::string(name) + " must be a string");
    return "";
  }
  // Longer than any path that the system takes, and not worth a copy.
  if (length > 65536) {
    RangeError(std::string(name) + " is too long: length=" + std::to_string(length));
    return "";
  }
  std::string text(length, '\0');
  napi_get_value_string_utf8(env_, values_[index], text.data(), length + 1, &length);
  if (text.find('\0') != std::string::npos) TypeError(std::string(name) + " must not contain NUL");
  return text;
}

std::string Arguments::Path(size_t index) {
  std::string path = Text(index, "path");
  if (!failed_ && path.empty()) TypeError("path must not be empty");
  return path;
}

Bytes Arguments::ByteView(size_t index, const char* name) {
  if (failed_) return {};
  bool is_view = false;
  napi_typedarray_type type = napi_int8_array;
  void* data = nullptr;
  size_t length = 0;
  napi_value buffer = nullptr;
  if (napi_is_typedarray(env_, values_[index], &is_view) != napi_ok || !is_view ||
      napi_get_typedarray_info(env_, values_[index], &type, &length, &data, &buffer, nullptr) != napi_ok || type != napi_uint8_array) {
    TypeError(std::string(name) + " must be a Uint8Array");
    return {};
  }
  bool detached = false;
  if (length == 0 && napi_is_detached_arraybuffer(env_, buffer, &detached) == napi_ok && detached) {
    TypeError(std::string(name) + " is detached");
    return {};
  }
  return {static_cast<uint8_t*>(data), length};
}

bool Arguments::ArrayBuffer(napi_value value, Bytes* bytes) {
  if (failed_) return false;
  bool is_buffer = false;
  void* data = nullptr;
  if (napi_is_arraybuffer(env_, value, &is_buffer) != napi_ok || !is_buffer ||
      napi_get_arraybuffer_info(env_, value, &data, &bytes->length) != napi_ok) {
    TypeError("buffer must be an ArrayBuffer");
    return false;
  }
  bytes->data = static_cast<uint8_t*>(data);
  return true;
}

uint32_t* Arguments::FutexWord(size_t index, MappingRecord** record) {
  Bytes bytes;
  if (!ArrayBuffer(index, &bytes)) return nullptr;
  if (bytes.length < sizeof(uint32_t)) {
    RangeError("buffer is too short for a 32-bit word, or detached: byteLength=" + std::to_string(bytes.length));
    return nullptr;
  }
  const uint64_t offset = Integer(index + 1, "offset", 0, bytes.length - sizeof(uint32_t));
  if (failed_) return nullptr;
  uint8_t* word = bytes.data + offset;
  if (reinterpret_cast<uintptr_t>(word) % sizeof(uint32_t) != 0) {
    RangeError("offset must be a multiple of 4: offset=" + std::to_string(offset));
    return nullptr;
  }
  if (record != nullptr) *record = environment_->FindBuffer(bytes.data, bytes.length);
  return reinterpret_cast<uint32_t*>(word);
}

MappingRecord* Arguments::WritableMapping(size_t index) {
  Bytes bytes;
  if (!ArrayBuffer(index, &bytes)) return nullptr;
  MappingRecord* record = bytes.length == 0 ? nullptr : environment_->FindBuffer(bytes.data, bytes.length);
  if (record != nullptr && record->region.writable) return record;
  TypeError("buffer must be a mapped and writable one, not unmapped yet");
  return nullptr;
}

uint32_t* Arguments::MappedWord(size_t index, const char* name, MappingRecord* record) {
  if (failed_) return nullptr;
  if (record->length < sizeof(uint32_t)) {
    RangeError("buffer is too short for a 32-bit word: byteLength=" + std::to_string(record->length));
    return nullptr;
  }
  const uint64_t offset = Integer(index, name, 0, record->length - sizeof(uint32_t));
  if (!failed_ && offset % sizeof(uint32_t) != 0) RangeError(std::string(name) + " must be a multiple of 4: " + name + "=" + std::to_string(offset));
  return failed_ ? nullptr : reinterpret_cast<uint32_t*>(record->region.base + offset);
}

std::vector<MappingRecord*> Arguments::Mappings(size_t index, const char* name) {
  std::vector<MappingRecord*> records;
  napi_valuetype type = napi_undefined;
  if (failed_ || (napi_typeof(env_, values_[index], &type) == napi_ok && type == napi_undefined)) return records;
  bool is_array = false;
  uint32_t count = 0;
  if (napi_is_array(env_, values_[index], &is_array) != napi_ok || !is_array || napi_get_array_length(env_, values_[index], &count) != napi_ok) {
    TypeError(std::string(name) + " must be an array");
    return {};
  }
  for (uint32_t i = 0; i < count; i++) {
    napi_value value = nullptr;
    Bytes bytes;
    if (napi_get_element(env_, values_[index], i, &value) != napi_ok || !ArrayBuffer(value, &bytes)) return {};
    MappingRecord* record = bytes.length == 0 ? nullptr : environment_->FindBuffer(bytes.data, bytes.length);
    if (record == nullptr) {
      TypeError(std::string(name) + " must hold mapped buffers, not unmapped yet");
      return {};
    }
    records.push_back(record);
  }
  return records;
}

MappingRecord* Arguments::MappedRange(size_t index, size_t* offset, size_t* length) {
  Bytes bytes;
  if (!ArrayBuffer(index, &bytes)) return nullptr;
  MappingRecord* record = bytes.length == 0 ? nullptr : environment_->FindBuffer(bytes.data, bytes.length);
  if (record == nullptr) {
    TypeError("buffer must be a mapped one, not unmapped yet");
    return nullptr;
  }
  *offset = Integer(index + 1, "offset", 0, bytes.length);
  *length = Integer(index + 2, "length", 0, bytes.length - *offset);
  return failed_ ? nullptr : record;
}

}  // namespace mmapkv
