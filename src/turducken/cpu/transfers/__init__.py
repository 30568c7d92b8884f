"""Far transfers of control: far JMP, CALL and RET, IRET, call gates, and task switches.

The engine has its own idea of these; what the manual says stands here. SDM 2A/2B, "JMP - Jump",
"CALL - Call Procedure", "RET - Return From Procedure", "IRET/IRETD/IRETQ - Interrupt Return".
"""
