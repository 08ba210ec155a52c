"""AlexeyAB/darknet's detection networks with a [yolo] head, as far as the folder of real data has them."""

# Networks that are built; those that `cfg/` has under the same name are taken from there (they mean the same, which
# test_shipped_cfgs.py proves), so that their tests need no data.
BUILT = (
    "cspx-p7-mish.cfg",
    "cspx-p7-mish_hp.cfg",
    "csresnext50-panet-spp-original-optimal.cfg",
    "yolov3-spp.cfg",
    "yolov3-tiny.cfg",
    "yolov3-tiny_3l.cfg",
    "yolov3-tiny_obj.cfg",
    "yolov3-voc.cfg",
    "yolov3-voc.yolov3-giou-40.cfg",
    "yolov3.cfg",
    "yolov3.coco-giou-12.cfg",
    "yolov4-csp-s-mish.cfg",
    "yolov4-csp-swish.cfg",
    "yolov4-csp-x-mish.cfg",
    "yolov4-csp-x-swish-frozen.cfg",
    "yolov4-csp.cfg",
    "yolov4-p5-frozen.cfg",
    "yolov4-p5.cfg",
    "yolov4-sam-mish-csp-reorg-bfm.cfg",
    "yolov4-tiny-custom.cfg",
    "yolov4-tiny.cfg",
    "yolov4.cfg",
    "yolov4_new.cfg",
    "yolov4x-mish.cfg",
    "yolov7-tiny.cfg",
    "yolov7.cfg",
)

# Networks that are refused, and what the message has to name.
REFUSED = {
    "Gaussian_yolov3_BDD.cfg": r"\[Gaussian_yolo\]",
    "resnet152_trident.cfg": "share_index",
    "yolov3-tiny_occlusion_track.cfg": r"\[crnn\]",
    "yolov3-tiny_xnor.cfg": "xnor=1",
    "yolov4-tiny_contrastive.cfg": r"\[contrastive\]",
}
