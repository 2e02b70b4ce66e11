#include "bundle.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>

#include "errors.hpp"
#include "files.hpp"
#include "npz.hpp"
#include "sha256.hpp"

namespace fer_edge {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;
constexpr std::uint64_t kLargestManifest = 4 << 20;
constexpr std::uint64_t kLargestArtifact = std::uint64_t{2} << 30;
constexpr std::uint64_t kLargestGolden = 64 << 20;
constexpr std::size_t kMostArtifacts = 1024;
constexpr std::size_t kMostGoldenImages = 4096;
constexpr std::size_t kLongestPath = 1024;
// The classes of a data set that names no others.
const std::vector<std::string> kFer2013 = {"angry", "disgust",  "fear",   "happy",
                                           "sad",   "surprise", "neutral"};
constexpr std::size_t kFewestClasses = 2;
constexpr std::size_t kMostClasses = 100;
constexpr std::size_t kLongestLabel = 256;  // bytes: 64 characters
constexpr char kGolden[] = "golden.npz";
constexpr char kCopyAgain[] =
    "copy the bundle again from where it was made, or build it again: fer-edge build";

Error damaged(const std::string& where, const std::string& why) {
  return Error(Exit::integrity, where + ": " + why, kCopyAgain);
}

bool is_hex(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// The names of the classes, by the rules of fer_edge/labels.py; the manifest's digest protects what
// is not checked here, such as letters that differ only in case.
void check_labels(const std::vector<std::string>& labels, const std::string& where) {
  if (labels.size() < kFewestClasses || labels.size() > kMostClasses) {
    throw damaged(where, "it has " + std::to_string(labels.size()) + " labels, not 2 to 100");
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const std::string& label = labels[i];
    const bool control = std::any_of(label.begin(), label.end(), [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    });
    if (label.empty() || label.size() > kLongestLabel || control) {
      throw damaged(where, "label " + std::to_string(i) + " is not a valid name");
    }
    if (std::find(labels.begin(), labels.begin() + static_cast<std::ptrdiff_t>(i), label) !=
        labels.begin() + static_cast<std::ptrdiff_t>(i)) {
      throw damaged(where, "it has a label twice");
    }
  }
}

// The manifest is canonical JSON. Its last field is the SHA-256 of the same JSON without that field
// (see fer_edge/bundle/manifest.py), so its bytes can be checked without writing JSON again.
void check_own_digest(const std::string& content, const std::string& where) {
  const std::string before = ",\n  \"manifest_sha256\": \"";
  const std::string after = "\"\n}\n";
  const std::size_t tail = before.size() + 64 + after.size();
  if (content.size() <= tail) throw damaged(where, "it is damaged or incomplete");
  const std::size_t at = content.size() - tail;
  const std::string digest = content.substr(at + before.size(), 64);
  if (content.compare(at, before.size(), before) != 0 ||
      content.compare(content.size() - after.size(), after.size(), after) != 0 ||
      sha256(content.substr(0, at) + "\n}\n") != digest) {
    throw damaged(where, "it does not match its own digest");
  }
}

// The path must stay inside the bundle. The digest does not ensure it: an attacker can compute one.
bool is_inside(const std::string& path) {
  const bool control = std::any_of(path.begin(), path.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (path.empty() || path.size() > kLongestPath || path.front() == '/' || control ||
      path.find('\\') != std::string::npos) {
    return false;
  }
  const std::filesystem::path parts(path);
  return std::none_of(parts.begin(), parts.end(), [](const std::filesystem::path& part) {
    return part == ".." || part == "." || part.empty();
  });
}

// The kind of weights of an INT8 graph for CPUs, by the end of what its meta says.
std::string weights_of(const Artifact& artifact, const json& content) {
  const auto meta = content.find("meta");
  if (artifact.precision != "int8" || meta == content.end() || !meta->is_object()) return "";
  const auto said = meta->find("weights");
  if (said == meta->end() || !said->is_string()) return "";
  const std::string text = said->get<std::string>();
  for (const std::string kind : {"saturation-safe", "full"}) {
    if (text.size() >= kind.size() &&
        text.compare(text.size() - kind.size(), kind.size(), kind) == 0) {
      return kind;
    }
  }
  return "";
}

// Whether the build timed several plans and kept this one: meta has the table then.
bool chosen_by_time(const json& content) {
  const auto meta = content.find("meta");
  return meta != content.end() && meta->is_object() && meta->contains("choice");
}

Artifact artifact_from_json(const json& content) {
  Artifact artifact;
  artifact.path = content.at("path").get<std::string>();
  artifact.format = content.at("format").get<std::string>();
  artifact.precision = content.at("precision").get<std::string>();
  artifact.target = content.at("target").get<std::string>();
  artifact.sha256 = content.at("sha256").get<std::string>();
  artifact.variant = content.value("variant", "");
  artifact.weights = weights_of(artifact, content);
  artifact.chosen = chosen_by_time(content);
  const json& size = content.at("size");
  if (!size.is_number_unsigned() || size.get<std::uint64_t>() > kLargestArtifact) {
    throw std::runtime_error("the size of " + artifact.path + " is not one of 0 to 2 GiB");
  }
  artifact.size = size.get<std::uint64_t>();
  if (!is_inside(artifact.path)) {
    throw std::runtime_error("the path '" + artifact.path + "' leaves the bundle folder");
  }
  if (artifact.sha256.size() != 64 || !is_hex(artifact.sha256)) {
    throw std::runtime_error("the SHA-256 of " + artifact.path + " is not 64 hex digits");
  }
  return artifact;
}

Gate gate_from_json(const json& content) {
  const auto text = [&](const char* key) {
    const auto found = content.find(key);
    return found != content.end() && found->is_string() ? found->get<std::string>() : "";
  };
  Gate gate{text("precision"), text("target"), text("variant"), std::nullopt};
  const auto passed = content.find("passed");
  if (passed != content.end() && passed->is_boolean()) gate.passed = passed->get<bool>();
  return gate;
}

// The name and a folder for a copy of a bundle inside the Python package, which `fer-edge build`
// does not write to (fer_edge/pretrained/__init__.py); "" for every other bundle.
std::string packaged_source(const std::filesystem::path& path) {
  std::error_code failed;
  const auto real = std::filesystem::canonical(path, failed);
  const auto folder = real.parent_path();
  if (failed || folder.filename() != "pretrained" ||
      folder.parent_path().filename() != "fer_edge") {
    return "";
  }
  const std::string name = real.filename().string();
  return "pretrained:" + (name == "compact" ? "fer2013" : name) + " -o " + name;
}

// Does what Python's shlex.quote does.
std::string shell_quoted(const std::string& word) {
  const auto safe = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("_@%+=:,./-", c) != nullptr;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), safe)) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
  return quoted + "'";
}

// Whether a file is below a folder once all links are followed.
bool leads_inside(const std::filesystem::path& file, const std::filesystem::path& folder) {
  std::error_code failed;
  const auto root = std::filesystem::canonical(folder, failed);
  if (failed) return false;
  const auto real = std::filesystem::canonical(file, failed);
  if (failed) return false;
  return std::mismatch(root.begin(), root.end(), real.begin(), real.end()).first == root.end();
}

template <typename T>
std::vector<T> rows(const std::string& bytes) {
  std::vector<T> out(bytes.size() / sizeof(T));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
  return out;
}

}  // namespace

Bundle Bundle::open(const std::filesystem::path& path) {
  const std::filesystem::path manifest = path / "manifest.json";
  const std::string where = manifest.string();
  std::error_code failed;
  if (!std::filesystem::exists(manifest, failed)) {
    throw Error(Exit::usage, path.string() + " is not a bundle: it has no manifest.json",
                "fer-edge build makes a bundle; fer-edge bundle unpack unpacks a .fer file");
  }
  if (!leads_inside(manifest, path)) {
    throw damaged(where, "the file is a link to a place outside the bundle");
  }
  return from_manifest(read_file(manifest, kLargestManifest, static_cast<int>(Exit::integrity)),
                       path);
}

Bundle Bundle::from_manifest(const std::string& content, const std::filesystem::path& path) {
  const std::string where = (path / "manifest.json").string();
  check_own_digest(content, where);

  Bundle bundle;
  bundle.path_ = path;
  try {
    const json fields = json::parse(content);
    const int schema = fields.at("schema").get<int>();
    if (schema > kSchema) {
      throw Error(Exit::usage,
                  where + " has schema " + std::to_string(schema) + "; this runner reads up to " +
                      std::to_string(kSchema),
                  "build a newer fer-edge-run");
    }
    bundle.name_ = fields.at("name").get<std::string>();
    bundle.labels_ = fields.at("labels").get<std::vector<std::string>>();
    const json& dataset = fields.at("dataset");
    const auto trained = dataset.contains("classes")
                             ? dataset.at("classes").get<std::vector<std::string>>()
                             : kFer2013;
    if (bundle.labels_ != trained) {
      throw damaged(where, "its labels are not those of its data set");
    }
    const json& shape = fields.at("output").at("shape");
    // back() of an empty array is undefined.
    if (!shape.is_array() || shape.empty()) throw damaged(where, "its output has no shape");
    const json& logits = shape.back();
    if (!logits.is_number_integer() || logits.get<std::int64_t>() !=
                                           static_cast<std::int64_t>(bundle.labels_.size())) {
      throw damaged(where, "its output does not have one logit for each label");
    }
    const json& preprocessing = fields.at("preprocessing");
    bundle.preprocessing_ = {preprocessing.at("mean").get<double>(),
                             preprocessing.at("std").get<double>()};
    const json& artifacts = fields.at("artifacts");
    if (!artifacts.is_array() || artifacts.size() > kMostArtifacts) {
      throw damaged(where, "its artifacts are not a list of up to 1,024");
    }
    for (const json& item : artifacts) {
      bundle.artifacts_.push_back(artifact_from_json(item));
    }
    for (const json& item : fields.at("gates")) bundle.gates_.push_back(gate_from_json(item));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw damaged(where, error.what());
  }
  check_labels(bundle.labels_, where);
  const Preprocessing& pixels = bundle.preprocessing_;
  if (!(std::fabs(pixels.mean) <= 1e6) || !(pixels.std >= 1e-6 && pixels.std <= 1e6)) {
    throw damaged(where, "preprocessing has a mean or a std that no network has");
  }
  return bundle;
}

std::optional<Artifact> Bundle::find(const std::string& format, const std::string& precision,
                                     const std::string& target) const {
  for (const Artifact& artifact : artifacts_) {
    if (artifact.format == format && artifact.precision == precision &&
        artifact.target == target) {
      return artifact;
    }
  }
  return std::nullopt;
}

std::optional<Artifact> Bundle::find(const std::string& path) const {
  for (const Artifact& artifact : artifacts_) {
    if (artifact.path == path) return artifact;
  }
  return std::nullopt;
}

std::vector<Artifact> Bundle::graphs(const std::string& precision,
                                     const std::string& target) const {
  std::vector<Artifact> found;
  for (const Artifact& artifact : artifacts_) {
    if (artifact.format == "onnx" && artifact.precision == precision &&
        artifact.target == target) {
      found.push_back(artifact);
    }
  }
  std::stable_partition(found.begin(), found.end(),
                        [](const Artifact& artifact) { return artifact.variant.empty(); });
  return found;
}

bool Bundle::failed_gate(const Artifact& engine, const std::string& placement) const {
  return std::any_of(gates_.begin(), gates_.end(), [&](const Gate& gate) {
    return gate.precision == engine.precision && gate.variant == engine.variant &&
           (gate.target.empty() || gate.target == placement) && gate.passed == false;
  });
}

std::string Bundle::build_command(const std::string& precision, const std::string& target) const {
  const bool weights =
      std::any_of(artifacts_.begin(), artifacts_.end(),
                  [](const Artifact& artifact) { return artifact.format == "safetensors"; });
  if (!weights && !find("onnx", "fp32", "")) {
    return "build from the run that this bundle was made from";
  }
  const std::string packaged = packaged_source(path_);
  const std::string source = packaged.empty() ? shell_quoted(path_.string()) : packaged;
  return "fer-edge build " + source + " --precision " + precision + " --target " + target;
}

std::string Bundle::read(const Artifact& artifact) const {
  const std::filesystem::path file = path_ / artifact.path;
  const std::string where = file.string();
  std::error_code failed;
  if (!std::filesystem::exists(file, failed)) throw damaged(where, "the file is missing");
  if (!leads_inside(file, path_)) {
    throw damaged(where, "the file is a link to a place outside the bundle");
  }
  const auto size = std::filesystem::file_size(file, failed);
  if (!failed && size != artifact.size) {
    throw damaged(where, "it has " + std::to_string(size) + " bytes; in the manifest it has " +
                             std::to_string(artifact.size));
  }
  std::string content = read_file(file, artifact.size, static_cast<int>(Exit::integrity));
  if (content.size() != artifact.size) {
    throw damaged(where, "it has " + std::to_string(content.size()) +
                             " bytes; in the manifest it has " + std::to_string(artifact.size));
  }
  const std::string digest = sha256(content);
  if (digest != artifact.sha256) {
    throw damaged(where, "its SHA-256 is " + digest.substr(0, 12) + "...; in the manifest it is " +
                             artifact.sha256.substr(0, 12) + "...");
  }
  return content;
}

Golden Bundle::golden() const {
  const auto artifact = find(kGolden);
  const std::string where = (path_ / kGolden).string();
  if (!artifact) {
    throw Error(Exit::usage, path_.string() + " has no golden self-test (golden.npz)",
                "build the bundle again: fer-edge build");
  }
  if (artifact->size > kLargestGolden) throw damaged(where, "it is too large for a self-test");
  return golden_from_npz(read(*artifact), labels_.size(), where);
}

Golden golden_from_npz(const std::string& content, std::size_t classes, const std::string& where) {
  const auto arrays = read_npz(content, where);
  const auto images = arrays.find("images");
  const auto logits = arrays.find("logits");
  const auto wrong = [&] {
    return damaged(where, "expected images u8[G,1,48,48] and finite logits f32[G," +
                              std::to_string(classes) + "]");
  };
  if (images == arrays.end() || logits == arrays.end()) throw wrong();
  const std::size_t count = images->second.shape.empty() ? 0 : images->second.shape[0];
  if (count == 0 || count > kMostGoldenImages || images->second.dtype != "|u1" || logits->second.dtype != "<f4" ||
      images->second.shape != std::vector<std::size_t>{count, 1, kSize, kSize} ||
      logits->second.shape != std::vector<std::size_t>{count, classes}) {
    throw wrong();
  }
  Golden golden{rows<Image>(images->second.bytes), logits_of(logits->second.bytes, classes)};
  for (const Logits& row : golden.logits) {
    if (!std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); })) {
      throw wrong();
    }
  }
  return golden;
}

}  // namespace fer_edge
