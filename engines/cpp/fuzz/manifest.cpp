// manifest.json: any bytes, and any JSON with a digest that is right (a forged manifest).
#include "bundle.hpp"
#include "sha256.hpp"
#include "target.hpp"
#include "usable.hpp"

namespace {

void use(const std::string& content) {
  const auto bundle = fer_edge::Bundle::from_manifest(content, "bundle");
  for (const char* precision : {"", "fp32", "int8"}) {
    for (const bool plans : {false, true}) {
      const char* name = plans ? "tensorrt" : "openvino";
      const fer_edge::BackendKind kind{name, "", name, plans, false, nullptr, nullptr, nullptr};
      try {
        (void)fer_edge::usable_engine(bundle, kind, precision);
      } catch (const fer_edge::Error&) {
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz(data, size, use);
  return fuzz(data, size, [](const std::string& body) {
    // As the writer does: the digest of the object's text is its last field.
    std::string object = body;
    while (!object.empty() && object.back() != '}') object.pop_back();
    if (object.empty()) return;
    object.pop_back();
    while (!object.empty() && (object.back() == '\n' || object.back() == ' ')) object.pop_back();
    const std::string digest = fer_edge::sha256(object + "\n}\n");
    use(object + ",\n  \"manifest_sha256\": \"" + digest + "\"\n}\n");
  });
}
