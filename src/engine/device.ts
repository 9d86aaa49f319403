/**
 * Our own GPUDevice, with the adapter's real limits: ONNX Runtime then never destroys it, and buffers can be shared
 * between its sessions and our kernels.
 */
export interface Adapter {
  name: string;
  /** Whether it is a software adapter, which computes on the CPU and is slower than the wasm provider. */
  software: boolean;
  hasF16: boolean;
  /** False if subgroups are so small that ONNX Runtime's attention is silently wrong (measured). */
  trustsSubgroups: boolean;
  open(options: { subgroups: boolean }): Promise<GPUDevice>;
}

/** The limits that ONNX Runtime requests for a device of its own. */
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
  'maxBindGroups',
] as const;

/** The best adapter; null if the browser has no WebGPU or no adapter. */
export async function findAdapter(): Promise<Adapter | null> {
  const gpu = (navigator as { gpu?: GPU }).gpu;
  const adapter = (await gpu?.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null)) ?? null;
  if (!adapter) {
    return null;
  }
  const { info } = adapter;
  const name = info.description || [info.vendor, info.architecture, info.device].filter(Boolean).join(' ') || 'GPU';
  const software =
    info.isFallbackAdapter === true ||
    /swiftshader|llvmpipe|lavapipe|basic render/i.test(`${name} ${info.architecture}`);
  const trustsSubgroups = (info.subgroupMinSize ?? 0) >= 16;
  const open = ({ subgroups }: { subgroups: boolean }): Promise<GPUDevice> => {
    const wanted = ['shader-f16', ...(subgroups ? ['subgroups', 'subgroup-size-control'] : [])];
    const features = wanted.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[];
    const requiredLimits: Record<string, number> = {};
    for (const limit of LIMITS) {
      requiredLimits[limit] = adapter.limits[limit];
    }
    return adapter.requestDevice({ requiredFeatures: features, requiredLimits });
  };
  return { name, software, hasF16: adapter.features.has('shader-f16'), trustsSubgroups, open };
}
