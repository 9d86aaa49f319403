"""Writes test/goldens/formats: pictures whose metadata Pillow wrote, and what Python's `re` finds in infotext lines.

The lines are made up in the shapes that the tools write; no picture and no prompt is anybody's. Needs Pillow only.
"""

import json
import re
from pathlib import Path

from PIL import Image, PngImagePlugin

OUT = Path(__file__).resolve().parent.parent / "test" / "goldens" / "formats"
# The expression of AUTOMATIC1111's reader, with which src/formats/infotext.ts has to agree.
PAIRS = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

INFOTEXT = (
    "a paper boat, (blue:1.2)\nsecond line\nNegative prompt: rain\n"
    "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4294967295, Size: 512x768, "
    "Model hash: 0123456789, Model: boats_v1, RNG: CPU, Version: v1.10.1"
)
UNICODE = INFOTEXT.replace("paper boat", "紙の船 🚣")

LINES = [
    # Web UI, old and new
    "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512",
    "Steps: 20, Sampler: Euler a, CFG scale: 7.0, Seed: 4294967294, Size: 512x768, Model hash: 6ce0161689",
    "Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 77, Size: 640x960, Model hash: abcdef0123, Model: some-mix_v3, Clip skip: 2, ENSD: 31337",
    "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5, Seed: 123456789, Size: 1024x1024, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, Version: v1.10.1",
    "Steps: 20, Sampler: DPM++ SDE, Schedule type: Automatic, CFG scale: 4.5, Seed: 9, Size: 512x512, Denoising strength: 0.5, Hires upscale: 2, Hires steps: 10, Hires upscaler: 4x-UltraSharp, Version: 1.9.4",
    "Steps: 25, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 512x512, Denoising strength: 0.75, Mask blur: 4",
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 512x512, Lora hashes: "paper: 0123456789ab, ink: ba9876543210", Version: v1.7.0',
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 512x512, TI hashes: "bad: c74b4e810b03", Version: 1.6.0',
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 512x512, Hires prompt: "a boat, \\"big\\", at sea", Hires upscale: 1.5',
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Hashes: {"model": "0123456789", "lora:x": "ff"}, Version: v1.6.1',
    "Steps: 20, Sampler: UniPC, CFG scale: 7, Seed: 10, Size: 768x512, Variation seed: 55, Variation seed strength: 0.2, Seed resize from: 512x512",
    "Steps: 50, Sampler: PLMS, CFG scale: 11, Seed: 10, Face restoration: CodeFormer, Size: 512x512",
    "Steps: 20, Sampler: LMS, CFG scale: 7, Seed: 10, Size: 512x512, RNG: NV, NGMS: 0.5, Version: v1.6.0-2-g4afaaf8a",
    "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, Size: 512x512, Token merging ratio: 0.5, Token merging ratio hr: 0.4",
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, Size: 512x512, ControlNet 0: "Module: canny, Model: control_canny [e3fe7712], Weight: 1, Resize Mode: Crop and Resize, Low Vram: False", Version: v1.6.0',
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, Script: X/Y/Z plot, X Type: Steps, X Values: "10,20,30", Y Type: CFG scale, Y Values: "5,7"',
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, AddNet Enabled: True, AddNet Module 1: LoRA, AddNet Model 1: paper(0123abcd), AddNet Weight A 1: 0.8',
    "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, Refiner: sd_xl_refiner [7440042bbd], Refiner switch at: 0.8",
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, VAE hash: 735e4c3a44, VAE: vae-ft-mse-840000.safetensors, Emphasis: "No norm"',
    'Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 10, ADetailer model: face_yolov8n.pt, ADetailer prompt: "a face, smiling", ADetailer confidence: 0.3',
    # Forge
    "Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 7, Size: 896x1152, Model hash: c161224931, Model: flux1-dev-bnb-nf4-v2, Version: f2.0.1v1.10.1-previous-664-gd557aef9, Module 1: ae, Module 2: clip_l",
    'Steps: 4, Sampler: LCM, Schedule type: SGM Uniform, CFG scale: 1.5, Seed: 8, Size: 512x512, Model: lcm, Hires Module 1: Use same choices, Version: f2.0.1v1.10.1',
    # SD.Next
    "Steps: 20, Size: 1024x1024, Sampler: DPM++ 2M, Seed: 2, CFG scale: 6, CFG true: 6, App: SD.Next, Version: 058a7f0, Pipeline: StableDiffusionXLPipeline, Operations: txt2img, Model: juggernaut, Model hash: 1234567890",
    "Steps: 20, Seed: 3, Sampler: Default, CFG scale: 6, Size: 512x512, Parser: native, App: SD.Next, Version: 1a2b3c4, Operations: img2img; hires, Denoising strength: 0.3",
    # Fooocus, Krita, Image-Saver nodes, others
    "Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 11, Size: 1152x896, CFG scale: 4, Sharpness: 2.0, ADM Guidance: \"(1.5, 0.8, 0.3)\", Model: juggernautXL_v8Rundiffusion, Model hash: aeb7e9e689, Performance: Speed, Scheduler: karras, VAE: Default (model), Version: Fooocus v2.5.5",
    "Steps: 20, Sampler: Default - DPM++ 2M, CFG scale: 7.0, Seed: 12, Size: 1024x768, Model hash: unknown, Model: dreamshaper_8.safetensors, Denoising strength: 0.6",
    "Steps: 20, Sampler: dpmpp_2m_karras, CFG scale: 8.0, Seed: 13, Size: 512x512, Model hash: 0123456789, Model: model, Version: ComfyUI",
    'Steps: 28, CFG scale: 7, Sampler: euler_ancestral_normal, Seed: 14, Size: 832x1216, Clip skip: 2, Hashes: {"model":"e3c47aedb0"}, Civitai resources: [{"type":"checkpoint","modelVersionId":290640}]',
    "Steps: 30, Sampler: Undefined, CFG scale: 3.5, Seed: 15, Size: 832x1216, Clip skip: 2, Created Date: 2024-08-01T10:11:12.1314151Z, Civitai metadata: {}",
    "Steps: 20, Sampler: DPM++ 2M, CFG scale: 7, Seed: 16, Size: 512x512, Version: Darkroom 0.1.0",
    # Shapes that are easily read wrongly
    "Steps: 20,Sampler: Euler a,CFG scale: 7,Seed: 1",
    "Steps:20, Sampler:Euler, CFG scale:7",
    "Steps : 20, Sampler : Euler, CFG scale : 7",
    "  Steps: 20, Sampler: Euler, CFG scale: 7  ",
    "Steps: 20, Sampler: Euler, CFG scale: 7,",
    "Steps: 20, Sampler: Euler, CFG scale: 7, ",
    "Steps: 20, Sampler: , CFG scale: 7, Seed: ",
    "Steps: , Sampler: , CFG scale: ",
    "Steps: 20, just words, Seed: 3, more words",
    "a photo, high quality, 8k",
    "a photo: blue, style: ink",
    "time: 12:30, place: here: there, ratio: 16:9",
    'Note: "unclosed, Steps: 3, Seed: 4',
    'Note: "a" b, Steps: 3, Seed: 4',
    'Note: "", Steps: 3, Seed: 4',
    'Note: "\\", Steps: 3, Seed: 4',
    'Note: "a \\"quoted\\" word, with comma", Steps: 3, Seed: 4',
    'Note: "back\\\\slash", Steps: 3, Seed: 4',
    'Note:    "spaces before", Steps: 3, Seed: 4',
    'Note: "closed" , Steps: 3, Seed: 4',
    "A: 1, B: 2, C: 3",
    "AB: 1, B: 2, CD: 3",
    "-key: 1, _key: 2, 9key: 3, k-e/y z: 4",
    "key.dot: 1, key(paren): 2, key+plus: 3",
    "Größe: 3, Höhe: 4, 画像: 5",
    "Cafe\u0301 x: 1, na\u00efve: 2",
    "Model: https://example.org/a, Seed: 1, Steps: 2",
    "Model: C:\\models\\mix.safetensors, Seed: 1, Steps: 2",
    "Size: 512x512, Seed resize from: -1x-1, Hires resize: 1024x1536",
    "Steps: 20\tSampler: Euler, Seed: 3, CFG scale: 7",
    "Steps: 20,, Sampler: Euler,,, Seed: 3",
    "::, a:: b, cd:: e, ef:, gh",
    "Steps 20, Sampler Euler",
    "x" * 300 + ": 1, Seed: 2",
    "",
    ",",
    ":",
    "\u3000Steps: 20, Seed: 1, Sampler: DDIM",
    "Steps: 20, Sampler: Euler \u200b, Seed: \u0661\u0662",
    "\U0001d54fkey: 1, \U0001f6f6 boat: 2, ab: \U0001f6f6",
]


def image(mode: str = "RGB") -> Image.Image:
    picture = Image.new(mode, (8, 6))
    for x in range(8):
        for y in range(6):
            colour = (x * 30, y * 40, (x * y * 7) % 256, 255 - x)
            picture.putpixel((x, y), colour[: len(mode)])
    return picture


def exif(text: str) -> Image.Exif:
    block = Image.Exif()
    block[0x0131] = "Pillow"
    block.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    return block


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    image().save(OUT / "plain.png")
    image().save(OUT / "plain.jpg", quality=90)
    image().save(OUT / "plain.webp", quality=90)
    image("RGBA").save(OUT / "plain_lossless.webp", lossless=True)
    for name, text in (("latin1", INFOTEXT), ("unicode", UNICODE)):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", text)
        image().save(OUT / f"text_{name}.png", pnginfo=info)
        packed = PngImagePlugin.PngInfo()
        if name == "latin1":
            packed.add_text("parameters", text, zip=True)
        else:
            packed.add_itxt("parameters", text, lang="en", tkey="parameters", zip=True)
        image().save(OUT / f"packed_{name}.png", pnginfo=packed)
        image().save(OUT / f"exif_{name}.jpg", exif=exif(text), comment=b"made up")
        image().save(OUT / f"exif_{name}.webp", exif=exif(text), xmp=b"<x/>")
        image().save(OUT / f"exif_{name}.png", exif=exif(text))
    texts = {"latin1": INFOTEXT, "unicode": UNICODE}
    lines = [{"line": line, "pairs": PAIRS.findall(line)} for line in LINES]
    golden = {"texts": texts, "lines": lines}
    (OUT / "infotext.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{len(lines)} lines")


if __name__ == "__main__":
    main()
