#include "environment.h"

#include "arguments.h"
#include "file.h"

namespace mmapkv {

Environment::Environment(napi_env env) : env_(env) { napi_add_env_cleanup_hook(env_, Close, this); }

void Environment::AddFile(int fd) {
  const size_t index = static_cast<size_t>(fd);
  if (index >= files_.size()) files_.resize(index + 1);
  files_[index] = true;
}

napi_value Environment::Adopt(const mapping::Region& region, size_t length) {
  MappingRecord* record = new MappingRecord;
  record->region = region;
  record->length = length;
  record->environment = this;
  record->mapped = true;
  records_.insert(record);

  napi_value buffer = nullptr;
  napi_value faults = nullptr;
  napi_value object = nullptr;
  const auto create = [&]() -> napi_status {
    // Each hold is counted before the call, because a call that fails late runs the finalizer itself.
    record->holds++;
    napi_status status = napi_create_external_arraybuffer(env_, region.base, length, BufferFinalizer, record, &buffer);
    if (status != napi_ok) return status;
    status = napi_create_reference(env_, buffer, 0, &record->buffer);
    if (status != napi_ok) return status;
    record->holds++;
    status = napi_create_external_arraybuffer(env_, &region.slot->faults, sizeof(int32_t), FaultsFinalizer, record, &faults);
    if (status != napi_ok) return status;
    status = napi_create_reference(env_, faults, 0, &record->faults);
    if (status != napi_ok) return status;
    status = napi_create_object(env_, &object);
    if (status != napi_ok) return status;
    const napi_property_attributes visible = napi_enumerable;  // neither writable nor configurable
    const napi_property_descriptor properties[] = {
        {"buffer", nullptr, nullptr, nullptr, nullptr, buffer, visible, nullptr},
        {"faults", nullptr, nullptr, nullptr, nullptr, faults, visible, nullptr},
    };
    status = napi_define_properties(env_, object, 2, properties);
    if (status != napi_ok) return status;
    return napi_wrap(env_, object, record, ObjectFinalizer, nullptr, nullptr);
  };

  const napi_status status = create();
  if (status != napi_ok) {
    // No JavaScript has seen the buffers. A hold whose finalizer never runs costs the record's few bytes, no more.
    record->buffer_unreachable = true;
    record->faults_unreachable = true;
    ReleaseHold(record);
    // Electron forbids external buffers.
    const int error = status == napi_no_external_buffers_allowed ? EOPNOTSUPP : ENOMEM;
    if (CanRunJavaScript()) ThrowSystemError(env_, Failed(error, "napi_create_external_arraybuffer"));
    return nullptr;
  }
  by_base_[region.base] = record;
  return object;
}

MappingRecord* Environment::FindObject(napi_value object) const {
  void* data = nullptr;
  // The pointer may come from another addon: it is only compared.
  if (napi_unwrap(env_, object, &data) != napi_ok) return nullptr;
  MappingRecord* record = static_cast<MappingRecord*>(data);
  return records_.count(record) != 0 ? record : nullptr;
}

MappingRecord* Environment::FindBuffer(void* data, size_t length) const {
  const auto found = by_base_.find(data);
  return found != by_base_.end() && found->second->length == length ? found->second : nullptr;
}

// False when the buffer is gone or was detached by someone else: its bytes may be reached by another way.
bool Environment::Detach(napi_ref reference) const {
  napi_value buffer = nullptr;
  if (napi_get_reference_value(env_, reference, &buffer) != napi_ok || buffer == nullptr) return false;
  bool detached = true;
  if (napi_is_detached_arraybuffer(env_, buffer, &detached) != napi_ok || detached) return false;
  return napi_detach_arraybuffer(env_, buffer) == napi_ok;
}

// Safe to call again: what has been detached by us stays marked as such.
void Environment::Unmap(MappingRecord* record) {
  if (!record->buffer_unreachable) record->buffer_unreachable = Detach(record->buffer);
  if (!record->faults_unreachable) record->faults_unreachable = Detach(record->faults);
  Settle(record);
}

void Environment::Unpin(MappingRecord* record) {
  record->pins--;
  Settle(record);
}

// Does what has become possible: unmaps, frees the guard's slot, deletes the record.
void Environment::Settle(MappingRecord* record) {
  Environment* environment = record->environment;
  if (record->buffer_unreachable && environment != nullptr) {
    const auto found = environment->by_base_.find(record->region.base);
    if (found != environment->by_base_.end() && found->second == record) environment->by_base_.erase(found);
  }
  if (record->mapped && record->buffer_unreachable && record->pins == 0) {
    record->mapped = false;
    mapping::Unmap(record->region);
  }
  if (!record->mapped && record->faults_unreachable && !record->slot_freed && record->pins == 0) {
    record->slot_freed = true;
    fault_guard::Free(record->region.slot);
  }
  if (!record->mapped && record->holds == 0 && record->pins == 0) {
    if (environment != nullptr) environment->records_.erase(record);
    delete record;
  }
}

void Environment::ReleaseHold(MappingRecord* record) {
  record->holds--;
  Settle(record);
}

void Environment::BufferFinalizer(napi_env env, void*, void* hint) {
  MappingRecord* record = static_cast<MappingRecord*>(hint);
  if (record->buffer != nullptr) napi_delete_reference(env, record->buffer);
  record->buffer = nullptr;
  record->buffer_unreachable = true;
  ReleaseHold(record);
}

void Environment::FaultsFinalizer(napi_env env, void*, void* hint) {
  MappingRecord* record = static_cast<MappingRecord*>(hint);
  if (record->faults != nullptr) napi_delete_reference(env, record->faults);
  record->faults = nullptr;
  record->faults_unreachable = true;
  ReleaseHold(record);
}

void Environment::ObjectFinalizer(napi_env, void* data, void*) { ReleaseHold(static_cast<MappingRecord*>(data)); }

// The last to run, but for the finalizers of mapping objects. Closing a descriptor releases its locks.
void Environment::Close(void* self) {
  Environment* environment = static_cast<Environment*>(self);
  for (MappingRecord* record : environment->records_) record->environment = nullptr;
  environment->records_.clear();
  environment->by_base_.clear();
  for (size_t fd = 0; fd < environment->files_.size(); fd++) {
    if (environment->files_[fd]) file::Close(static_cast<int>(fd));
  }
  environment->files_.clear();
}

bool Environment::CanRunJavaScript() const {
  // The cheapest call that refuses when JavaScript cannot run.
  napi_value value;
  napi_value result;
  return napi_get_undefined(env_, &value) == napi_ok && napi_coerce_to_bool(env_, value, &result) == napi_ok;
}

}  // namespace mmapkv
